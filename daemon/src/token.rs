//! The admin port's token, as its file has it now: what mounts a secret replaces it while the daemon runs.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::exit::Misconfigured;

/// The bearer token that writes on the admin port must carry. Clones share it.
#[derive(Clone)]
pub struct Token(Arc<Shared>);

struct Shared {
    path: PathBuf,
    known: Mutex<LastRead>,
}

struct LastRead {
    token: Arc<str>,
    /// The file that it was read from.
    seen: Option<Stamp>,
}

/// Changes when the file is written or replaced, also through a link on the way to it.
type Stamp = (u64, u64, u64, Option<SystemTime>);

// === impl Token ===

impl Token {
    /// The token that a file holds.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no token.
    pub fn read(path: &Path) -> Result<Self, Misconfigured> {
        let path = path.to_owned();
        // Before it is read: a change in between is seen as one.
        let seen = fs::metadata(&path).ok().map(|file| stamp(&file));
        let token = read(&path).map_err(|why| bad(&path, &why))?.into();
        Ok(Self(Arc::new(Shared { path, known: Mutex::new(LastRead { token, seen }) })))
    }

    /// The token of now. While the file cannot be read, or is no token, it is the last good one.
    pub fn now(&self) -> Arc<str> {
        let Shared { path, known } = &*self.0;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = fs::metadata(path).ok().map(|file| stamp(&file));
        if seen != known.seen {
            known.seen = seen;
            match read(path) {
                Ok(token) if *token == *known.token => {}
                Ok(token) => {
                    tracing::info!(file = %path.display(), "the admin token has changed");
                    known.token = token.into();
                }
                Err(why) => tracing::warn!("{}; the last good one is kept", bad(path, &why)),
            }
        }
        known.token.clone()
    }
}

impl From<&str> for Token {
    /// One that no file holds: it stays.
    fn from(token: &str) -> Self {
        let known = Mutex::new(LastRead { token: token.into(), seen: None });
        Self(Arc::new(Shared { path: PathBuf::new(), known }))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let token = fs::read_to_string(path)?;
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let expected = "expected one token, a line of visible ASCII characters";
        return Err(io::Error::new(io::ErrorKind::InvalidData, expected));
    }
    Ok(token.to_owned())
}

fn bad(path: &Path, why: &io::Error) -> Misconfigured {
    Misconfigured(format!("--admin-token-file {}: {why}", path.display()))
}

fn stamp(file: &Metadata) -> Stamp {
    (file.dev(), file.ino(), file.size(), file.modified().ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_token_that_is_replaced_is_the_new_one_and_a_broken_one_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("1", "first\n"), ("2", "second"), ("3", "two words"), ("4", "fourth")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("token"), text).unwrap();
        }
        // As a kubelet mounts a secret.
        let lead_to = |version: &str| {
            symlink(version, at("next")).unwrap();
            fs::rename(at("next"), at("data")).unwrap();
        };
        lead_to("1");
        symlink("data/token", at("token")).unwrap();
        let token = Token::read(&at("token")).unwrap();
        assert_eq!(&*token.now(), "first");
        lead_to("2");
        assert_eq!(&*token.now(), "second");
        lead_to("3");
        assert_eq!(&*token.now(), "second");
        fs::remove_file(at("data")).unwrap();
        assert_eq!(&*token.now(), "second");
        lead_to("4");
        assert_eq!(&*token.now(), "fourth");
        fs::write(at("4/token"), "written").unwrap();
        assert_eq!(&*token.now(), "written");
    }
}
