//! `file:///folder`: its files are messages, those with the suffix `.working` (or `?working=SUFFIX`) are in flight.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    /// The watches of calls that have ended, for the next calls; as many as there were calls at once.
    kept: Mutex<Vec<FolderChanges>>,
}

/// Folders that are watched for new files.
struct FolderChanges {
    inotify: Arc<AsyncFd<OwnedFd>>,
    folders: HashMap<i32, Vec<SpoolFolder>>,
}

/// Folders that are watched for one call, and kept for the next one, however it ends.
struct CallChanges<'a> {
    changes: Option<FolderChanges>,
    kept: &'a Mutex<Vec<FolderChanges>>,
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
        let (turns, kept) = Default::default();
        Self { turns, reads: Arc::new(Semaphore::new(READS_AT_ONCE)), kept }
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
        let watch = self.watch(&all).await?;
        // The reading below covers earlier events.
        watch.forget_events()?;
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

    /// Watches the folders, and no others. Those that cannot be opened are left out: reading them says why.
    ///
    /// # Errors
    ///
    /// The system's limit of watches is reached.
    async fn watch(&self, folders: &[SpoolFolder]) -> io::Result<CallChanges<'_>> {
        // Reused: closing an inotify with many watches is slow, and the number per user is limited.
        let kept = lock(&self.kept).pop();
        let FolderChanges { inotify, folders: before } = kept.map_or_else(FolderChanges::new, Ok)?;
        let added = folders.iter().map(|folder| {
            let inotify = Arc::clone(&inotify);
            async move {
                let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
                let add = move |folder: &SpoolFolder| {
                    let opened = folder.open()?;
                    // The folder that was checked, whatever its path leads to now. One that is watched already keeps its number.
                    Ok(inotify::add_watch(inotify.get_ref(), real_path(&opened), events))
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
        for number in before.into_keys().filter(|number| !watched.contains_key(number)) {
            if let Err(error) = inotify::remove_watch(inotify.get_ref(), number) {
                // The kernel has forgotten a folder that was removed.
                tracing::debug!(%error, "failed to end the watch of a folder that is not read any more");
            }
        }
        Ok(CallChanges { changes: Some(FolderChanges { inotify, folders: watched }), kept: &self.kept })
    }

    /// Does something with a folder on a thread that may wait for its file system.
    async fn in_turn<T: Send + 'static>(
        &self,
        folder: &SpoolFolder,
        work: impl FnOnce(&SpoolFolder) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let turn = {
            let mut turns = lock(&self.turns);
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
        lock(&self.turns).retain(|path, turn| *path != folder.path || Arc::strong_count(turn) > 1);
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

/// Under these locks a collection changes by one entry: it is whole even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl CallChanges ===

impl CallChanges<'_> {
    /// Waits until a file appears, and returns the folders in which one did.
    async fn wait(&self) -> io::Result<HashSet<SpoolFolder>> {
        let Some(changes) = &self.changes else { return Ok(HashSet::new()) };
        loop {
            let mut ready = changes.inotify.readable().await?;
            let changed = changes.take_events()?;
            if !changed.is_empty() {
                return Ok(changed);
            }
            ready.clear_ready();
        }
    }

    /// Drops the events so far: the caller reads the folders instead.
    fn forget_events(&self) -> io::Result<()> {
        self.changes.as_ref().map_or(Ok(()), |changes| changes.take_events().map(drop))
    }
}

impl Drop for CallChanges<'_> {
    fn drop(&mut self) {
        lock(self.kept).extend(self.changes.take());
    }
}

// === impl FolderChanges ===

impl FolderChanges {
    /// Watches nothing yet.
    fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps the promise that its successor asks for in an unsafe block"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify: Arc::new(inotify), folders: HashMap::new() })
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
        let watch = folders.watch(&[jobs.clone(), mails.clone()]).await.unwrap();
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
    /// One that a call has watched is kept for the next, also where the call is dropped; and a folder that was removed and made anew
    /// is another one.
    #[tokio::test]
    async fn the_next_call_watches_by_what_the_one_before_has_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            let folder =
                SpoolFolder { path, working: WORKING.to_owned(), within: vec![parent.path().to_owned()] };
            (name.to_owned(), folder)
        };
        let (jobs, mails) = (folder("jobs"), folder("mails"));
        let folders = SpoolFolders::default();
        let descriptor = || lock(&folders.kept)[0].inotify.get_ref().as_raw_fd();
        let file = |of: &(String, SpoolFolder)| of.1.path.join("a");
        fs::write(file(&jobs), "").unwrap();
        let both = [jobs.clone(), mails.clone()];
        assert_eq!(folders.changes(&both).await.unwrap(), ["jobs"]);
        let first = descriptor();
        fs::remove_file(file(&jobs)).unwrap();
        // A file came and went between two calls: it is no change.
        fs::write(file(&mails), "").unwrap();
        fs::remove_file(file(&mails)).unwrap();
        {
            let mut waiting = std::pin::pin!(folders.changes(&both));
            let ended = tokio::select! {
                biased;
                ended = &mut waiting => Some(ended),
                () = until_idle(&folders) => None,
            };
            assert!(ended.is_none(), "{ended:?}");
        }
        // Dropped, and what it has watched is kept.
        fs::remove_dir(&mails.1.path).unwrap();
        fs::create_dir(&mails.1.path).unwrap();
        fs::write(file(&mails), "").unwrap();
        assert_eq!(folders.changes(&both).await.unwrap(), ["mails"]);
        fs::remove_file(file(&mails)).unwrap();
        let watch = folders.watch(std::slice::from_ref(&mails.1)).await.unwrap();
        fs::write(file(&jobs), "").unwrap();
        fs::write(file(&mails), "").unwrap();
        assert_eq!(
            watch.wait().await.unwrap(),
            HashSet::from([mails.1.clone()]),
            "jobs is not watched any more"
        );
        // Two at the same time have one each.
        let second = folders.watch(std::slice::from_ref(&jobs.1)).await.unwrap();
        drop(watch);
        assert_eq!(descriptor(), first);
        assert_eq!(lock(&folders.kept).len(), 1);
        drop(second);
        assert_eq!(lock(&folders.kept).len(), 2);
    }

    /// Ends when no folder is being read.
    async fn until_idle(folders: &SpoolFolders) {
        loop {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if lock(&folders.turns).is_empty() {
                return;
            }
        }
    }
}
