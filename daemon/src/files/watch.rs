//! Tells when namespace files may have changed, by inotify.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, time::Instant};

/// Watches folders, never files: a file that is replaced is another file.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    inotify: AsyncFd<OwnedFd>,
    folders: HashMap<i32, Names>,
    /// A change was seen, and may be finished then.
    settles: Option<Instant>,
    /// Folders that may not be watched, and that this was logged for.
    unwatched: BTreeSet<PathBuf>,
}

/// Which names in a folder matter.
#[derive(Debug, Default)]
struct Names {
    /// Every namespace file.
    all: bool,
    these: BTreeSet<Vec<u8>>,
}

/// How long a change may take from its first event: an editor moves the old file away before it writes the new one.
const SETTLE: Duration = Duration::from_millis(200);

/// The symlink that a ConfigMap's volume swaps when it changes.
const CONFIG_MAP: &str = "..data";

// === impl FolderWatch ===

impl FolderWatch {
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps the promise that its successor asks for in an unsafe block"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify, folders: HashMap::new(), settles: None, unwatched: BTreeSet::new() })
    }

    /// Watches whatever can change `paths` or one of `files`. Tells whether something is watched that was not before:
    /// then what was read before may be old.
    pub(crate) fn cover<'a>(
        &mut self,
        paths: &'a [PathBuf],
        files: impl Iterator<Item = &'a Path>,
    ) -> io::Result<bool> {
        let mut wanted: BTreeMap<PathBuf, Names> = BTreeMap::new();
        let mut name_in_folder = |path: &Path| {
            if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
                let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                let names = wanted.entry(folder.to_owned()).or_default();
                names.these.insert(name.as_encoded_bytes().to_vec());
                names.these.insert(CONFIG_MAP.into());
            }
        };
        for path in paths.iter().map(PathBuf::as_path).chain(files) {
            name_in_folder(path);
            // Where links lead to: the file there may be written in place.
            if let Ok(there) = path.canonicalize() {
                name_in_folder(&there);
            }
        }
        for folder in paths.iter().filter(|path| path.is_dir()) {
            wanted.entry(folder.clone()).or_default().all = true;
        }
        let mut folders: HashMap<i32, Names> = HashMap::new();
        for (folder, names) in wanted {
            let what = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::ATTRIB
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            match inotify::add_watch(self.inotify.get_ref(), &folder, what) {
                // Two paths to one folder have one number.
                Ok(number) => folders.entry(number).or_default().add(names),
                // Its own folder is watched for it to come back.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) => {
                    if self.unwatched.insert(folder.clone()) {
                        let folder = folder.display();
                        tracing::warn!(%folder, "cannot watch the folder: let the daemon's user read it; until then a change in it takes effect after a restart");
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        for number in self.folders.keys().filter(|number| !folders.contains_key(number)) {
            // It may be gone with its folder.
            let _ = inotify::remove_watch(self.inotify.get_ref(), *number);
        }
        let more = folders.keys().any(|number| !self.folders.contains_key(number));
        self.folders = folders;
        Ok(more)
    }

    /// Returns when a file may have changed, and the change had time to be finished. Dropped before that, it knows of the
    /// change when it is called again.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let settles = loop {
            if let Some(settles) = self.settles {
                break settles;
            }
            let mut ready = self.inotify.readable().await?;
            if take_events(&self.inotify, &self.folders)? {
                self.settles = Some(Instant::now() + SETTLE);
            }
            ready.clear_ready();
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "an editor writes several times: a file is read once it has been left alone"
        )]
        tokio::time::sleep_until(settles).await;
        take_events(&self.inotify, &self.folders)?;
        self.settles = None;
        Ok(())
    }
}

// === impl Names ===

impl Names {
    fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.these.extend(other.these);
    }

    fn contain(&self, name: &[u8]) -> bool {
        self.these.contains(name) || self.all && super::is_namespace_file(&String::from_utf8_lossy(name))
    }
}

/// Takes all pending events; returns whether one concerns us.
fn take_events(inotify: &AsyncFd<OwnedFd>, folders: &HashMap<i32, Names>) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = Reader::new(inotify.get_ref(), &mut buffer);
    let mut concerns_us = false;
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(concerns_us),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let whole_folder =
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT;
        concerns_us |= event.events().intersects(whole_folder)
            || event.file_name().is_some_and(|name| {
                folders.get(&event.wd()).is_some_and(|names| names.contain(name.to_bytes()))
            });
    }
}
