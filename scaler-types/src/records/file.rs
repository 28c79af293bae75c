//! One resource's file: its name, its locks, reading it and replacing it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Stored;
use crate::{Record, Result, ScaleError, Version};

/// File systems take 255 bytes; the longest suffix fits beside this.
const LONGEST_NAME: usize = 240;

/// A resource as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "U: Serialize", deserialize = "U: DeserializeOwned"))]
pub(super) struct StoredRecord<U> {
    pub(super) version: u64,
    #[serde(deserialize_with = "Record::deserialize_stored")]
    pub(super) record: Record,
    #[serde(rename = "running", default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) up: Option<U>,
    #[serde(rename = "stopping", default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) leaving: Option<U>,
    /// The version with which the last scale began. While a wake goes on two of them have the same record.
    #[serde(default)]
    pub(super) scale: u64,
}

fn none<U>() -> Option<U> {
    None
}

/// A name as a file name that stays in its folder: letters, digits, `-`, `_` and inner dots stand for themselves, any other
/// byte is written `%2f`. Two names never give one file.
///
/// # Errors
///
/// The name is empty or too long for a file system.
pub fn encode_name(name: &str) -> Result<String> {
    anyhow::ensure!(!name.is_empty(), "an empty name has no file");
    let mut text = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(char::from(byte)),
            b'.' if at > 0 => text.push('.'),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    anyhow::ensure!(
        text.len() <= LONGEST_NAME,
        "the name {name:?} is too long for a file: {LONGEST_NAME} bytes at most"
    );
    Ok(text)
}

/// The inverse of [`encode_name`]; `None` for what it never writes.
pub(super) fn decode_name(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Locks a file, made where it is missing, until the handle is dropped. Waiting costs a thread of the blocking pool, but
/// only while another holder has the lock; a cancelled wait goes on in the background and frees the lock at once.
///
/// # Errors
///
/// The file cannot be opened or locked.
pub async fn hold(path: PathBuf) -> Result<File> {
    let doing = || format!("locking {}", path.display());
    let file = open_lock(&path).with_context(doing)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?.with_context(doing)
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(doing),
    }
}

/// As [`hold`], if the lock is free.
///
/// # Errors
///
/// The file cannot be opened or locked.
pub fn try_hold(path: &Path) -> Result<Option<File>> {
    let doing = || format!("locking {}", path.display());
    let file = open_lock(path).with_context(doing)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(doing),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Reads a resource's file. Missing: it was never written. Empty: the host went down before the disk had it, and
/// processes of that time do not run now.
pub(super) fn load<U: DeserializeOwned>(path: &Path) -> Result<StoredRecord<U>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading the record {}", path.display())),
    };
    if bytes.is_empty() {
        return Ok(StoredRecord { version: 0, record: Record::default(), up: None, leaving: None, scale: 0 });
    }
    serde_json::from_slice(&bytes)
        .with_context(|| format!("reading the record {}: it was not written by this plugin", path.display()))
}

/// Replaces a resource's file. The caller holds its lock, so one temporary name does.
pub(super) fn store<U: Serialize>(path: &Path, temporary: &Path, stored: &StoredRecord<U>) -> Result<()> {
    fs::write(temporary, serde_json::to_vec(stored)?)
        .and_then(|()| fs::rename(temporary, path))
        .with_context(|| format!("writing the record {}", path.display()))
}

// === impl StoredRecord ===

impl<U> StoredRecord<U> {
    pub(super) fn version(&self) -> Version {
        Version(self.version.to_string())
    }

    /// A version that was never there before, even if the file was deleted meanwhile: a record that is begun anew
    /// begins at the time, and no resource changes a thousand million times a second.
    pub(super) fn advance(&mut self) {
        self.version = match self.version {
            0 => UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
            version => version + 1,
        };
    }

    /// The compare-and-set.
    pub(super) fn write(&mut self, expected: &Version, record: &Record) -> Result<(), ScaleError> {
        if self.version() != *expected {
            return Err(ScaleError::Conflict);
        }
        self.advance();
        self.record = record.clone();
        Ok(())
    }
}

impl<U> From<StoredRecord<U>> for Stored<U> {
    fn from(stored: StoredRecord<U>) -> Self {
        Self { version: stored.version(), record: stored.record, up: stored.up, leaving: stored.leaving }
    }
}
