//! Members on one host: a locked file per incarnation under `<state-dir>/members`.
//!
//! The kernel frees the lock when the process ends, however it ends, and only then. So a file is a live member's as
//! long as its lock is held (a stopped process holds it too), and a dead one's as soon as it is free.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use super::Member;

/// Registered until dropped (or the process dies: the kernel frees the lock).
#[derive(Debug)]
pub struct MemberFile {
    name: String,
    path: PathBuf,
    _locked: File,
}

/// The end of a member's file name.
const MEMBER: &str = ".json";
/// The end of a file's name until it is complete and locked.
const UNFINISHED: &str = ".unfinished";
/// A member's file is some hundred bytes; what is longer is none.
const LONGEST: u64 = 4096;

/// Registers a new incarnation. To be called before the first list of any plugin.
///
/// # Errors
///
/// The folder cannot be written; the message names it.
pub fn register(state_dir: &Path, admin: SocketAddr) -> io::Result<MemberFile> {
    let folder = folder(state_dir);
    publish(&folder, admin).map_err(|error| in_folder(&folder, "cannot register as a member in", &error))
}

/// Every live member, now, by name: removes what is proved dead, keeps what is silent.
///
/// # Errors
///
/// The folder or a live member's file cannot be read: the list of members would be incomplete.
pub fn read(state_dir: &Path) -> io::Result<Vec<Member>> {
    read_folder(&folder(state_dir))
}

pub(super) fn read_folder(folder: &Path) -> io::Result<Vec<Member>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(in_folder(folder, "cannot read the members in", &error)),
    };
    let mut members = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| in_folder(folder, "cannot read the members in", &error))?.path();
        let name = path.to_string_lossy();
        if !name.ends_with(MEMBER) && !name.ends_with(UNFINISHED) {
            continue;
        }
        members.extend(
            look_at(&path).map_err(|error| {
                in_folder(&path, "cannot tell which process holds the member file:", &error)
            })?,
        );
    }
    members.sort();
    Ok(members)
}

// === impl MemberFile ===

impl MemberFile {
    /// The name under which others know this incarnation.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for MemberFile {
    fn drop(&mut self) {
        // Before the lock is freed. A file that cannot be removed is found dead by the next reader.
        drop(fs::remove_file(&self.path));
    }
}

/// Where the members' files are.
pub(super) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("members")
}

/// Whose file has this name, if it is a member's.
pub(super) fn member(file: &str) -> Option<&str> {
    file.strip_suffix(MEMBER)
}

fn publish(folder: &Path, admin: SocketAddr) -> io::Result<MemberFile> {
    fs::create_dir_all(folder)?;
    loop {
        // A process number comes again, a random number of 64 bits does not.
        let name = format!("{}-{:016x}", process::id(), RandomState::new().hash_one(()));
        let unfinished = folder.join(format!("{name}{UNFINISHED}"));
        let path = folder.join(format!("{name}{MEMBER}"));
        let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(&unfinished)?;
        // Locked before it has its name: a reader never sees a member's file that nobody holds. The lock may have
        // to be waited for: a reader that found the file too early looks whether it is free.
        file.lock()?;
        let member = Member { name, admin: reachable(admin) };
        serde_json::to_writer(&mut file, &member)?;
        file.flush()?;
        match fs::rename(&unfinished, &path) {
            Ok(()) => return Ok(MemberFile { name: member.name, path, _locked: file }),
            // That reader found it free and took it for what a crash left behind.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where others on this host reach a server that listens on `admin`.
fn reachable(admin: SocketAddr) -> SocketAddr {
    match admin.ip() {
        // `[::]` takes IPv4 as well (see `listen`), and a host may have no IPv6.
        ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), admin.port()),
        _ => admin,
    }
}

/// The member whose file this is, if it lives; removes the file if it does not.
fn look_at(path: &Path) -> io::Result<Option<Member>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    // Shared: two readers that look at the same time do not take each other for the member.
    let lives = match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(error),
    };
    if path.to_string_lossy().ends_with(UNFINISHED) {
        if !lives {
            remove(path, &file)?;
        }
        return Ok(None);
    }
    let mut text = String::new();
    let read = (&mut file).take(LONGEST).read_to_string(&mut text);
    let member = read.and_then(|_| serde_json::from_str::<Member>(&text).map_err(io::Error::from));
    match (lives, member) {
        (true, member) => member.map(Some),
        (false, Ok(member)) => {
            remove(path, &file)?;
            tracing::info!(member = member.name, "removed the registration of a dead DLX: its lock is free");
            Ok(None)
        }
        (false, Err(error)) => {
            tracing::warn!(file = %path.display(), %error, "ignored an unreadable DLX registration that no process holds; remove the file");
            Ok(None)
        }
    }
}

/// Removes `file` if it is still the one at `path`.
fn remove(path: &Path, file: &File) -> io::Result<()> {
    let gone_is_fine =
        |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
            fs::remove_file(path).or_else(gone_is_fine)
        }
        Ok(_) => Ok(()),
        Err(error) => gone_is_fine(error),
    }
}

fn in_folder(path: &Path, doing: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}
