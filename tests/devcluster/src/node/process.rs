//! Processes that never outlive this one.
//!
//! All are started by one thread: the kernel's death signal goes by the thread that started a process.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use tokio::{io::unix::AsyncFd, sync::oneshot};

type Order = (Command, oneshot::Sender<io::Result<Child>>);
/// `None` once it was reaped: from then on its number may be another's.
type Slot = Arc<Mutex<Option<Child>>>;

/// Starts processes and ends what is left of them when it goes.
pub struct Processes {
    /// `None` once nothing more is to be started.
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    /// By process id.
    alive: Arc<Mutex<HashMap<u32, Slot>>>,
}

/// A process that runs, or has ended and was not yet waited for.
pub struct Process {
    /// Its process id, which is also its process group's.
    pub id: u32,
    child: Slot,
    descriptor: AsyncFd<OwnedFd>,
    alive: Arc<Mutex<HashMap<u32, Slot>>>,
}

/// How a process ended, as a container runtime says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit status, or 128 and the signal's number.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

// === impl Processes ===

impl Processes {
    pub fn new() -> io::Result<Self> {
        let (orders, receiver) = mpsc::channel::<Order>();
        // It ends, and with it whatever it started, once its handle is gone.
        thread::Builder::new().name("processes".into()).spawn(move || {
            for (mut command, answer) in receiver {
                if let Err(Ok(mut child)) = answer.send(command.spawn()) {
                    // The receiver is gone.
                    let _ = child.kill().and_then(|()| child.wait());
                }
            }
        })?;
        Ok(Self { orders: Mutex::new(Some(orders)), alive: Arc::default() })
    }

    /// Starts `program` in a process group of its own; `prepare` sets the rest of the command.
    pub async fn start(
        &self,
        program: &std::path::Path,
        prepare: impl FnOnce(&mut Command),
    ) -> io::Result<Process> {
        // It becomes the program, so that the process id stays.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
        prepare(&mut command);
        let (answer, started) = oneshot::channel();
        let gone = || io::Error::other("the node has ended");
        let orders = lock(&self.orders).clone().ok_or_else(gone)?;
        orders.send((command, answer)).map_err(|_| gone())?;
        drop(orders);
        let child = started.await.map_err(|_| gone())??;
        let id = child.id();
        let pid = Pid::from_child(&child);
        let child = Arc::new(Mutex::new(Some(child)));
        lock(&self.alive).insert(id, Arc::clone(&child));
        #[expect(deprecated, reason = "its successor is unsafe; a descriptor that is owned here stays open")]
        let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK)
            .map_err(io::Error::from)
            .and_then(AsyncFd::new)
            .inspect_err(|_| end(&self.alive, id))?;
        Ok(Process { id, child, descriptor, alive: Arc::clone(&self.alive) })
    }

    /// Starts nothing more, kills all that are left and waits for their end.
    pub fn close(&self) {
        *lock(&self.orders) = None;
        let ids: Vec<u32> = lock(&self.alive).keys().copied().collect();
        for id in ids {
            end(&self.alive, id);
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Process ===

impl Process {
    /// Waits for its end; what is left of its process group is killed.
    pub async fn ended(&self) -> io::Result<Ended> {
        loop {
            if let Some(status) = self.reap()? {
                return Ok(Ended::from(status));
            }
            // Readable once it has ended, and for ever after.
            let _ = self.descriptor.readable().await?;
        }
    }

    /// Asks it to end. One that has ended is no error.
    pub fn terminate(&self) {
        // Under the lock it cannot be reaped, so its number is its own.
        if let Some(child) = &*lock(&self.child) {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }

    /// Kills it and what it has started.
    pub fn kill(&self) {
        if let Some(child) = &*lock(&self.child) {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        }
    }

    fn reap(&self) -> io::Result<Option<ExitStatus>> {
        if !has_ended(&self.descriptor.get_ref().as_fd())? {
            return Ok(None);
        }
        let status = bury(&self.child)?;
        lock(&self.alive).remove(&self.id);
        status.map(Some).ok_or_else(|| io::Error::other("the process was waited for before"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.alive, self.id);
    }
}

// === impl Ended ===

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        let signal = status.signal();
        Self { code: status.code().unwrap_or_else(|| 128 + signal.unwrap_or_default()), signal }
    }
}

/// Whether a process has ended, without taking its status away.
fn has_ended(descriptor: &std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)], Some(&now))? > 0)
}

/// Kills a process and its group, and waits for it.
fn end(alive: &Mutex<HashMap<u32, Slot>>, id: u32) {
    let slot = lock(alive).remove(&id);
    if let Some(slot) = slot {
        let _ = bury(&slot);
    }
}

/// Kills what is left of the group and reaps its leader. `None`: that was done before.
fn bury(slot: &Slot) -> io::Result<Option<ExitStatus>> {
    let mut slot = lock(slot);
    let Some(child) = &mut *slot else { return Ok(None) };
    // Not yet reaped, it keeps the group's number.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let status = child.wait()?;
    *slot = None;
    Ok(Some(status))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
