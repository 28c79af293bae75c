//! Learns of changes of a folder's files from the kernel.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    task::JoinHandle,
};

use super::file::decode_name;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where this answer ends: what to ask with next. Never 0.
    pub cursor: u64,
    /// The names of the resources whose file was written; `None`: any may have been.
    pub names: Option<BTreeSet<String>>,
}

/// Counts the changes of a folder. Each caller passes the count it knows, so that an answer lost on its way costs nothing.
pub(super) struct Watch {
    log: Arc<watch::Sender<Log>>,
    pump: JoinHandle<()>,
}

/// The latest change of each name.
struct Log {
    cursor: u64,
    /// Before this nothing is remembered.
    forgotten: u64,
    names: BTreeMap<u64, String>,
    latest: HashMap<String, u64>,
}

// === impl Watch ===

impl Watch {
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Files come by rename alone.
        inotify::add_watch(
            &inotify,
            folder,
            WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR,
        )?;
        let inotify = register(inotify)?;
        let log = Arc::new(watch::Sender::new(Log {
            cursor: 1,
            forgotten: 1,
            names: BTreeMap::new(),
            latest: HashMap::new(),
        }));
        let pump = tokio::spawn(pump(inotify, Arc::clone(&log), folder.display().to_string()));
        Ok(Self { log, pump })
    }

    pub(super) async fn changed(&self, cursor: u64) -> Changed {
        let mut log = self.log.subscribe();
        // Cannot fail: the sender is ours.
        let _ = log.wait_for(|log| cursor == 0 || log.cursor != cursor).await;
        let log = log.borrow();
        // A cursor of another instance's counting knows nothing here.
        let known = (log.forgotten..=log.cursor).contains(&cursor);
        let names = known.then(|| log.names.range(cursor + 1..).map(|(_, name)| name.clone()).collect());
        Changed { cursor: log.cursor, names }
    }

    pub(super) fn close(&self) {
        self.pump.abort();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}

/// Lets tokio say when a descriptor is readable: an inotify, or a pidfd, which is when its process has ended.
///
/// # Errors
///
/// The runtime's epoll does not take it.
#[expect(unsafe_code, reason = "tokio takes any AsRawFd; an OwnedFd keeps what it asks for")]
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, always the same descriptor, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Reads the kernel's events into the log.
async fn pump(inotify: AsyncFd<OwnedFd>, log: Arc<watch::Sender<Log>>, folder: String) {
    loop {
        let read = match inotify.readable().await {
            Ok(mut ready) => match ready.try_io(|fd| events(fd.get_ref())) {
                Ok(read) => read,
                Err(_would_block) => continue,
            },
            Err(error) => Err(error),
        };
        match read {
            Ok(names) => log.send_modify(|log| log.add(names)),
            Err(error) => {
                tracing::error!(%folder, %error, "failed to watch the records; changes by other daemons go unnoticed until a restart");
                return;
            }
        }
    }
}

/// The names of what was queued; `None` in it for "lost count".
fn events(inotify: &OwnedFd) -> io::Result<Vec<Option<String>>> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut names = Vec::new();
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => names.push(None),
            Ok(event) => names.extend(
                event
                    .file_name()
                    .and_then(|name| decode_name(name.to_str().ok()?.strip_suffix(".json")?))
                    .map(Some),
            ),
            Err(_) if !names.is_empty() => return Ok(names),
            Err(error) => return Err(error.into()),
        }
        // One buffer's worth at a time, so that known changes are reported.
        if reader.is_buffer_empty() && !names.is_empty() {
            return Ok(names);
        }
    }
}

// === impl Log ===

impl Log {
    fn add(&mut self, names: Vec<Option<String>>) {
        for name in names {
            self.cursor += 1;
            match name {
                Some(name) => {
                    if let Some(before) = self.latest.insert(name.clone(), self.cursor) {
                        self.names.remove(&before);
                    }
                    self.names.insert(self.cursor, name);
                }
                None => {
                    self.forgotten = self.cursor;
                    self.names.clear();
                    self.latest.clear();
                }
            }
        }
    }
}
