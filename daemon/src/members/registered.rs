//! The DLXs that have registered since registrations are followed: a reader that polls the members misses a short-lived one.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs, io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, sync::watch, time::sleep};

use super::files;

/// The pause before a folder that cannot be watched is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The registered DLXs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Their names, in this order.
    pub names: Vec<Arc<str>>,
    /// How often registrations may have been missed.
    pub lost: u64,
    /// Registrations are not followed: not yet, or that failed.
    pub unknown: bool,
}

// === impl Registered ===

impl Registered {
    /// Registrations are not followed yet.
    pub(super) fn unknown() -> Self {
        Self { unknown: true, ..Self::default() }
    }

    /// From now on registrations are followed.
    pub(super) fn followed(sender: &watch::Sender<Self>) {
        sender.send_if_modified(|known| std::mem::take(&mut known.unknown));
    }

    /// Registrations may be missed until they are [`followed`](Self::followed) again.
    pub(super) fn lost_sight(sender: &watch::Sender<Self>) {
        sender.send_modify(|known| (known.lost, known.unknown) = (known.lost + 1, true));
    }

    /// One is registered now.
    pub(super) fn record(sender: &watch::Sender<Self>, name: &str) {
        sender.send_if_modified(|known| {
            let new = !known.names.iter().any(|known| **known == *name);
            if new {
                known.names.push(name.into());
            }
            new
        });
    }

    /// Registrations may have been missed.
    pub(super) fn missed(sender: &watch::Sender<Self>) {
        sender.send_modify(|known| known.lost += 1);
    }
}

/// Follows the members' files below the state folder; never returns.
pub(super) async fn follow_files(state_dir: PathBuf, sender: watch::Sender<Registered>) {
    let folder = files::folder(&state_dir);
    let mut last = String::new();
    loop {
        let Err(error) = follow(&folder, &sender).await;
        Registered::lost_sight(&sender);
        let why = error.to_string();
        if last != why {
            tracing::warn!(folder = %folder.display(), %error, "failed to watch the registrations of DLXs; retrying, nothing is scaled to zero until that works (is fs.inotify.max_user_instances too low?)");
        }
        last = why;
        #[expect(clippy::disallowed_methods, reason = "nothing tells when the folder can be watched")]
        sleep(AGAIN).await;
    }
}

async fn follow(folder: &Path, sender: &watch::Sender<Registered>) -> io::Result<Infallible> {
    fs::create_dir_all(folder)?;
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&inotify, folder, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
    #[expect(
        deprecated,
        reason = "an OwnedFd keeps the promise that its successor asks for in an unsafe block"
    )]
    let inotify = AsyncFd::new(inotify)?;
    for member in files::read_folder(folder)? {
        Registered::record(sender, &member.name);
    }
    Registered::followed(sender);
    loop {
        let mut ready = inotify.readable().await?;
        take_events(&inotify, sender)?;
        ready.clear_ready();
    }
}

fn take_events(inotify: &AsyncFd<OwnedFd>, sender: &watch::Sender<Registered>) -> io::Result<()> {
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
            Registered::missed(sender);
        }
        if event.events().contains(ReadFlags::IGNORED) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the folder was removed"));
        }
        seen.extend(event.file_name().and_then(|name| Some(files::member(name.to_str().ok()?)?.to_owned())));
    }
    seen.iter().for_each(|name| Registered::record(sender, name));
    Ok(())
}
