//! The lead on one host: a locked file under the state folder.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::oneshot;

/// This process is the leader until this is dropped, or the process ends: the kernel frees the lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _locked: File,
}

/// Waits (without polling) until this process is the leader; it is until dropped or the process ends.
///
/// A thread waits for the lock. Dropping the future leaves that thread behind, which hinders nothing: it gives the lock back
/// should it ever get it, and it ends with the process.
///
/// # Errors
///
/// The lock file cannot be opened or locked; the message names it.
pub(crate) async fn acquire(state_dir: &Path) -> io::Result<Lock> {
    let path = state_dir.join("leader");
    let (sender, receiver) = oneshot::channel();
    // Not spawn_blocking: the runtime's own end waits for such a thread.
    thread::Builder::new().name("leader".to_owned()).spawn(move || {
        let locked = lock(&path).map_err(|error| named(&path, &error));
        // If the receiver is gone, the file is dropped and with it the lock.
        drop(sender.send(locked));
    })?;
    let locked = receiver
        .await
        .map_err(|_| io::Error::other("the thread that waits for the leader's lock ended"))??;
    Ok(Lock { _locked: locked })
}

fn lock(path: &PathBuf) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    loop {
        // Never truncated: what it holds is not looked at, only its lock.
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        // Another process may have removed the file meanwhile: then others lock a new one.
        let here = fs::metadata(path);
        let ours = file.metadata()?;
        if here.is_ok_and(|here| (here.dev(), here.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot take the leader's lock {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs::TryLockError, pin::pin, task::Poll};

    use super::*;

    #[tokio::test]
    async fn one_leads_and_the_next_follows_without_a_poll() {
        let folder = tempfile::tempdir().unwrap();
        let first = acquire(folder.path()).await.unwrap();
        let another = File::open(folder.path().join("leader")).unwrap();
        assert!(matches!(another.try_lock(), Err(TryLockError::WouldBlock)));
        let mut second = pin!(acquire(folder.path()));
        let state = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context))).await;
        assert!(state.is_pending());
        drop(first);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn a_candidate_that_gave_up_waiting_never_leads() {
        let folder = tempfile::tempdir().unwrap();
        let first = acquire(folder.path()).await.unwrap();
        {
            let mut second = pin!(acquire(folder.path()));
            let state = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context))).await;
            assert!(state.is_pending());
        }
        drop(first);
        // The thread left behind may get the lock first: it gives it back.
        acquire(folder.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_is_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        fs::write(&file, "").unwrap();
        let error = acquire(&file).await.unwrap_err();
        assert!(error.to_string().contains(&file.join("leader").display().to_string()), "{error}");
    }
}
