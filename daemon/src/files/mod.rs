//! The namespace files: which there are, what they say, and the last good state of each.

#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use watch::FolderWatch;

use crate::namespace_file::{MAX_SIZE, NamespaceFile, NamespaceFileError};

/// The files of `--config`, as last read. In the order given, and in a folder in the order of the names.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    entries: Vec<ConfigFile>,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    /// The bytes last read, valid or not: only changed bytes are parsed again.
    bytes: Option<Arc<[u8]>>,
    parsed: Result<Arc<Contents>, NamespaceFileError>,
    /// The last contents that could be used.
    pub(crate) good: Option<Arc<Contents>>,
    /// Why the file as it is now cannot be used.
    pub(crate) error: Option<NamespaceFileError>,
}

/// A namespace file's text and what it says.
#[derive(Debug, PartialEq)]
pub(crate) struct Contents {
    /// The file's name, for messages; empty where there is no file.
    pub(crate) name: String,
    pub(crate) text: Arc<str>,
    pub(crate) says: NamespaceFile,
}

// === impl Files ===

impl Files {
    /// Nothing is read yet.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, entries: Vec::new() }
    }

    /// One namespace without a file.
    pub(crate) fn implicit(namespace: String) -> Self {
        let says = NamespaceFile::implicit(namespace);
        let contents = Arc::new(Contents { name: String::new(), text: "".into(), says });
        let entry = ConfigFile {
            path: PathBuf::new(),
            bytes: None,
            parsed: Ok(Arc::clone(&contents)),
            good: Some(contents),
            error: None,
        };
        Self { paths: Vec::new(), entries: vec![entry] }
    }

    /// The paths of `--config`.
    pub(crate) fn config_paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Each file, good or not.
    pub(crate) fn entries(&self) -> &[ConfigFile] {
        &self.entries
    }

    /// Reads what changed. A file that cannot be used keeps its last good contents; one that left a folder is forgotten.
    pub(crate) fn read(&mut self) {
        if self.paths.is_empty() {
            return;
        }
        let mut before: BTreeMap<PathBuf, ConfigFile> =
            self.entries.drain(..).map(|entry| (entry.path.clone(), entry)).collect();
        for path in &self.paths {
            let was_a_folder = before.keys().any(|known| known.parent() == Some(path));
            let paths = match expand(path, was_a_folder) {
                Ok(paths) => paths,
                Err(error) => {
                    // Its files keep their last content: a missing folder is no request to stop everything.
                    let below = before.extract_if(.., |known, _| known.parent() == Some(path));
                    self.entries.extend(below.map(|(_, entry)| entry));
                    let error = NamespaceFileError::unreadable(path, error, "a folder of namespace files");
                    self.entries.push(ConfigFile::unread(path.clone(), error));
                    continue;
                }
            };
            for path in paths {
                if self.entries.iter().any(|entry| entry.path == path) {
                    continue;
                }
                let known = before.remove(&path);
                self.entries.push(ConfigFile::read(path, known));
            }
        }
        self.settle();
    }

    /// Decides which contents apply: each namespace belongs to one file. A file that has a namespace already keeps it.
    fn settle(&mut self) {
        let mut held: Vec<(String, String)> = Vec::new();
        let (keep, change): (Vec<_>, Vec<_>) =
            self.entries.iter_mut().partition(|entry| entry.keeps_its_namespace());
        for entry in keep {
            match &entry.parsed {
                Ok(contents) => (entry.good, entry.error) = (Some(Arc::clone(contents)), None),
                Err(error) => entry.error = Some(error.clone()),
            }
            held.extend(entry.holds());
        }
        for entry in change {
            let wanted = match &entry.parsed {
                Ok(contents) => contents,
                Err(error) => {
                    entry.error = Some(error.clone());
                    continue;
                }
            };
            let namespace = &wanted.says.namespace;
            entry.error = overlap(&held, namespace).map(|(theirs, by)| {
                let both =
                    if theirs == namespace { String::new() } else { format!(" (as part of {theirs:?})") };
                NamespaceFileError::Taken {
                    name: wanted.name.clone(),
                    namespace: namespace.clone(),
                    holder: format!("{by}{both}"),
                }
            });
            match entry.error {
                None => entry.good = Some(Arc::clone(wanted)),
                Some(_) => {
                    entry.good =
                        entry.good.take().filter(|good| overlap(&held, &good.says.namespace).is_none());
                }
            }
            held.extend(entry.holds());
        }
    }
}

// === impl ConfigFile ===

impl ConfigFile {
    fn unread(path: PathBuf, error: NamespaceFileError) -> Self {
        Self { path, bytes: None, parsed: Err(error.clone()), good: None, error: Some(error) }
    }

    /// `known`: the file as it was read last.
    fn read(path: PathBuf, known: Option<Self>) -> Self {
        let (bytes, parsed) = match (read_bounded(&path), &known) {
            (Ok(bytes), Some(known)) if known.bytes.as_deref() == Some(&bytes) => {
                (known.bytes.clone(), known.parsed.clone())
            }
            (Ok(bytes), _) => {
                let name = path.display().to_string();
                let parsed = NamespaceFile::parse(&name, &bytes).map(|says| {
                    // `parse` takes nothing but UTF-8.
                    let text = String::from_utf8_lossy(&bytes).into();
                    Arc::new(Contents { name, text, says })
                });
                (Some(bytes.into()), parsed)
            }
            (Err(error), _) => (None, Err(NamespaceFileError::unreadable(&path, error, "a namespace file"))),
        };
        let (good, error) = known.map_or((None, None), |known| (known.good, known.error));
        Self { path, bytes, parsed, good, error }
    }

    fn keeps_its_namespace(&self) -> bool {
        match (&self.good, &self.parsed) {
            (Some(good), Ok(now)) => good.says.namespace == now.says.namespace,
            (good, Err(_)) => good.is_some(),
            (None, Ok(_)) => false,
        }
    }

    /// The namespace that is this file's, and the file's name.
    fn holds(&self) -> Option<(String, String)> {
        self.good.as_ref().map(|good| (good.says.namespace.clone(), good.name.clone()))
    }
}

/// The file that has `namespace`, or a part or the whole of it.
fn overlap<'a>(held: &'a [(String, String)], namespace: &str) -> Option<&'a (String, String)> {
    held.iter().find(|(theirs, _)| theirs == namespace || theirs == "*" || namespace == "*")
}

/// A file's bytes; of one that is too large, or never ends, one more than may be.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files that `path` stands for: itself, or those in it.
fn expand(path: &Path, was_a_folder: bool) -> io::Result<Vec<PathBuf>> {
    // A path that never was a folder is read as a file, which reports its error.
    if !was_a_folder && !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| is_namespace_file(&name.to_string_lossy())) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// In a folder: an editor's hidden leftovers are none.
fn is_namespace_file(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}
