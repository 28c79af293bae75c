//! Which DLXs have registered since somebody began to follow that, however short a time they were there: who only reads the members
//! now and then does not see one that came and went in between.

use std::{
    collections::BTreeSet,
    fs, io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, sync::watch};

use super::files;

/// Who has registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Their names, in this order.
    pub names: Vec<Arc<str>>,
    /// How often it could not be told who came meanwhile.
    pub lost: u64,
}

// === impl Registered ===

impl Registered {
    /// One is registered now.
    pub(super) fn saw(tell: &watch::Sender<Self>, name: &str) {
        tell.send_if_modified(|known| {
            let new = !known.names.iter().any(|known| **known == *name);
            if new {
                known.names.push(name.into());
            }
            new
        });
    }

    /// It cannot be told who came meanwhile.
    pub(super) fn missed(tell: &watch::Sender<Self>) {
        tell.send_modify(|known| known.lost += 1);
    }
}

/// Follows the members' files below the state folder; never returns.
pub(super) async fn follow_files(state_dir: PathBuf, tell: watch::Sender<Registered>) {
    if let Err(error) = follow(&files::folder(&state_dir), &tell).await {
        tracing::warn!(folder = %state_dir.display(), %error, "cannot watch which DLXs register: one that comes and goes within a scale interval is not seen");
    }
    std::future::pending().await
}

async fn follow(folder: &Path, tell: &watch::Sender<Registered>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, folder, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps the promise that its successor asks for in an unsafe block"
    )]
    let inotify = AsyncFd::new(inotify)?;
    for member in files::read_folder(folder)? {
        Registered::saw(tell, &member.name);
    }
    loop {
        let mut ready = inotify.readable().await?;
        take_events(&inotify, tell)?;
        ready.clear_ready();
    }
}

fn take_events(inotify: &AsyncFd<OwnedFd>, tell: &watch::Sender<Registered>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = Reader::new(inotify.get_ref(), &mut buffer);
    let mut seen = BTreeSet::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            Registered::missed(tell);
        }
        seen.extend(event.file_name().and_then(|name| Some(files::member(name.to_str().ok()?)?.to_owned())));
    }
    seen.iter().for_each(|name| Registered::saw(tell, name));
    Ok(())
}
