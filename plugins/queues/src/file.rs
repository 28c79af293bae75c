//! `file:///folder`: its files are messages, those with the suffix `.working` (or `?working=SUFFIX`) are in flight.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, fstat,
        inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        open, statat,
    },
    io::Errno,
};
use scaler_types::{QueueError, QueueReading};
use tokio::{io::unix::AsyncFd, sync::Semaphore, time::timeout};

use crate::{
    allowed::{denied_folder, folder},
    config::QueuesSection,
    kind::{QueueKind, Reading},
    uri::Uri,
};

/// How long a file system may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Files are counted up to here.
const MAX_FILES: u64 = 1_000_000;
/// Folders that are read at the same time: each takes a thread.
const READS_AT_ONCE: usize = 32;
/// How often an empty folder is read again that was changed meanwhile.
const ATTEMPTS: u32 = 3;
/// The suffix of files that a worker has taken.
const WORKING: &str = ".working";

/// A folder of messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpoolFolder {
    path: PathBuf,
    working: String,
    /// The folders on the operator's list that it must be in, links followed.
    within: Vec<PathBuf>,
}

/// All folders that are read.
pub(crate) struct SpoolFolders {
    /// Held while the folder is read: one on a file system that does not answer takes one thread.
    turns: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    reads: Arc<Semaphore>,
}

/// Folders that are watched for new files.
struct FolderChanges {
    inotify: AsyncFd<OwnedFd>,
    folders: HashMap<i32, Vec<SpoolFolder>>,
}

// === impl SpoolFolder ===

impl SpoolFolder {
    /// Opens it, unless a link leads out of the folders that are allowed.
    fn open(&self) -> Result<OwnedFd, QueueError> {
        let path = self.path.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(&self.path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => QueueError::NotFound(format!("{path} does not exist")),
            Errno::NOTDIR => QueueError::Invalid(format!("{path} is no folder")),
            Errno::ACCESS => {
                QueueError::Denied(format!("the autoscaler's user may not read {path}: give it the right"))
            }
            error => self.unavailable(error.into()),
        })?;
        let real = fs::read_link(real_path(&opened)).map_err(|error| self.unavailable(error))?;
        let is_within =
            |folder: &PathBuf| fs::canonicalize(folder).is_ok_and(|folder| real.starts_with(folder));
        if !self.within.iter().any(is_within) {
            return Err(denied_folder(&real));
        }
        Ok(opened)
    }

    fn unavailable(&self, error: io::Error) -> QueueError {
        QueueError::Unavailable(format!("reading {}: {error}", self.path.display()))
    }

    fn read(&self) -> Result<QueueReading, QueueError> {
        let failed = |error: Errno| self.unavailable(error.into());
        let folder = self.open()?;
        for _ in 0..ATTEMPTS {
            let changed = |folder: &OwnedFd| fstat(folder).map(|stat| (stat.st_mtime, stat.st_mtime_nsec));
            let before = changed(&folder).map_err(failed)?;
            let reading = self.count(&folder).map_err(failed)?;
            // A file that is renamed meanwhile may have been missed under both names.
            let is_empty = reading.waiting == Some(0) && reading.in_flight == Some(0);
            if !is_empty || before == changed(&folder).map_err(failed)? {
                return Ok(reading);
            }
        }
        Err(QueueError::Unavailable(format!("{} changes while it is read", self.path.display())))
    }

    fn count(&self, folder: &OwnedFd) -> Result<QueueReading, Errno> {
        let (mut waiting, mut in_flight) = (0, 0);
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(b".") {
                continue;
            }
            let is_folder = match entry.file_type() {
                FileType::Unknown => match statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    // It is gone.
                    Err(Errno::NOENT) => true,
                    Err(error) => return Err(error),
                },
                file_type => file_type == FileType::Directory,
            };
            match is_folder {
                true => {}
                false if self.is_working(name) => in_flight += 1,
                false => waiting += 1,
            }
            if waiting + in_flight >= MAX_FILES {
                break;
            }
        }
        Ok(QueueReading {
            waiting: Some(waiting),
            in_flight: Some(in_flight),
            delayed: Some(0),
            ..QueueReading::default()
        })
    }

    fn is_working(&self, name: &[u8]) -> bool {
        name.ends_with(self.working.as_bytes())
    }
}

/// Where the kernel shows an open file's path without links, and opens it again.
fn real_path(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

// === impl SpoolFolders ===

impl Default for SpoolFolders {
    fn default() -> Self {
        Self { turns: Mutex::default(), reads: Arc::new(Semaphore::new(READS_AT_ONCE)) }
    }
}

impl QueueKind for SpoolFolders {
    const SCHEMES: &'static [&'static str] = &["file"];

    type Queue = SpoolFolder;

    fn parse(uri: &Uri, section: &QueuesSection) -> Result<SpoolFolder, QueueError> {
        let path = folder(uri).ok_or_else(|| {
            QueueError::Invalid("not a folder, expected file:///PATH without . and .. in it".to_owned())
        })?;
        let working = uri.parameter("working")?.unwrap_or(WORKING).to_owned();
        let within = section.allowed_hosts.folders_above(&path)?;
        Ok(SpoolFolder { path, working, within })
    }

    async fn read(&self, folders: Vec<SpoolFolder>, _: &QueuesSection) -> Vec<(SpoolFolder, Reading)> {
        let reads = folders.into_iter().map(|folder| async move {
            let reading = self.in_turn(&folder, SpoolFolder::read).await;
            (folder, reading)
        });
        join_all(reads).await
    }
}

impl SpoolFolders {
    /// Waits until one of these folders has a file that no worker has taken, and returns the names of those.
    ///
    /// # Errors
    ///
    /// The system's limit of watches is reached.
    pub(crate) async fn changes(&self, folders: &[(String, SpoolFolder)]) -> io::Result<Vec<String>> {
        let all: Vec<_> = folders.iter().map(|(_, folder)| folder.clone()).collect();
        let mut watch = self.watch(&all).await?;
        // What came before the watch was there.
        let readings = self.read(all, &QueuesSection::default()).await;
        let has_message =
            |(_, reading): &(_, Reading)| matches!(reading, Ok(QueueReading { waiting: Some(1..), .. }));
        let mut changed: HashSet<_> =
            readings.into_iter().filter(has_message).map(|(folder, _)| folder).collect();
        if changed.is_empty() {
            changed = watch.wait().await?;
        }
        let names = folders.iter().filter(|(_, folder)| changed.contains(folder));
        Ok(names.map(|(name, _)| name.clone()).collect())
    }

    /// Watches the folders. Those that cannot be opened are left out: reading them says why.
    ///
    /// # Errors
    ///
    /// The system's limit of watches is reached.
    async fn watch(&self, folders: &[SpoolFolder]) -> io::Result<FolderChanges> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let shared = Arc::new(inotify);
        let added = folders.iter().map(|folder| {
            let inotify = Arc::clone(&shared);
            async move {
                let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
                let add = move |folder: &SpoolFolder| {
                    let opened = folder.open()?;
                    // The folder that was checked, whatever its path leads to now.
                    Ok(inotify::add_watch(&*inotify, real_path(&opened), events))
                };
                (folder.clone(), self.in_turn(folder, add).await)
            }
        });
        let mut watched: HashMap<i32, Vec<SpoolFolder>> = HashMap::new();
        for (folder, added) in join_all(added).await {
            if let Ok(number) = added {
                watched.entry(number?).or_default().push(folder);
            }
        }
        // A thread that still waits for a file system has it.
        let inotify = Arc::try_unwrap(shared).or_else(|shared| shared.try_clone())?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps the promise that its successor asks for in an unsafe block"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(FolderChanges { inotify, folders: watched })
    }

    /// Does something with a folder on a thread that may wait for its file system.
    async fn in_turn<T: Send + 'static>(
        &self,
        folder: &SpoolFolder,
        work: impl FnOnce(&SpoolFolder) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(folder.path.clone()).or_default())
        };
        let owned = folder.clone();
        let done = timeout(TIMEOUT, async {
            let turn = turn.lock_owned().await;
            let permit = Arc::clone(&self.reads).acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _held = (turn, permit);
                work(&owned)
            })
            .await
        });
        let done = done.await;
        self.turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path, turn| *path != folder.path || Arc::strong_count(turn) > 1);
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(self::failed(folder, &error)),
            Err(_) => Err(self::failed(
                folder,
                &format!("no answer of its file system within {} s", TIMEOUT.as_secs()),
            )),
        }
    }
}

fn failed(folder: &SpoolFolder, error: &dyn std::fmt::Display) -> QueueError {
    QueueError::Unavailable(format!("reading {}: {error}", folder.path.display()))
}

// === impl FolderChanges ===

impl FolderChanges {
    /// Waits until a file appears, and returns the folders in which one did.
    async fn wait(&mut self) -> io::Result<HashSet<SpoolFolder>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let changed = self.take_events()?;
            if !changed.is_empty() {
                return Ok(changed);
            }
            ready.clear_ready();
        }
    }

    fn take_events(&self) -> io::Result<HashSet<SpoolFolder>> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
        let mut changed = HashSet::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                changed.extend(self.folders.values().flatten().cloned());
            }
            let Some(name) = event.file_name().filter(|_| !event.events().contains(ReadFlags::ISDIR)) else {
                continue;
            };
            let name = name.to_bytes();
            let folders = self.folders.get(&event.wd()).into_iter().flatten();
            changed.extend(
                folders.filter(|folder| !name.starts_with(b".") && !folder.is_working(name)).cloned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_file_is_reported_and_a_hidden_or_working_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            SpoolFolder { path, working: WORKING.to_owned(), within: vec![parent.path().to_owned()] }
        };
        let (jobs, mails) = (folder("jobs"), folder("mails"));
        let folders = SpoolFolders::default();
        let mut watch = folders.watch(&[jobs.clone(), mails.clone()]).await.unwrap();
        for name in [".hidden", "a.working"] {
            fs::write(jobs.path.join(name), "").unwrap();
        }
        fs::create_dir(jobs.path.join("folder")).unwrap();
        fs::rename(jobs.path.join(".hidden"), mails.path.join("b")).unwrap();
        assert_eq!(watch.wait().await.unwrap(), HashSet::from([mails]));
        fs::rename(jobs.path.join("a.working"), jobs.path.join("a")).unwrap();
        assert_eq!(watch.wait().await.unwrap(), HashSet::from([jobs]));
        assert!(folders.turns.lock().unwrap().is_empty());
    }
}
