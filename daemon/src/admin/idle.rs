//! Which connections of the admin server are idle, and for how long.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The idle connections, longest idle first.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<(u64, BTreeMap<u64, CancellationToken>)>);

/// One connection.
#[derive(Debug)]
pub(super) struct Waits {
    idle: Arc<Idle>,
    close: CancellationToken,
    /// Its turn among the idle ones, the last it had.
    turn: Arc<Mutex<u64>>,
}

/// Keeps a connection from being idle until it is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    idle: Arc<Idle>,
    close: CancellationToken,
    turn: Arc<Mutex<u64>>,
}

// === impl Idle ===

impl Idle {
    /// Closes the connection that has been idle for longest.
    pub(super) fn close_longest(&self) {
        if let Some((_, close)) = lock(&self.0).1.pop_first() {
            close.cancel();
        }
    }

    fn add(&self, close: &CancellationToken) -> u64 {
        let mut inner = lock(&self.0);
        inner.0 += 1;
        let turn = inner.0;
        inner.1.insert(turn, close.clone());
        turn
    }

    fn remove(&self, turn: u64) {
        lock(&self.0).1.remove(&turn);
    }
}

// === impl Waits ===

impl Waits {
    /// A connection on which nothing came yet.
    pub(super) fn new(idle: &Arc<Idle>) -> Self {
        let close = CancellationToken::new();
        let turn = Arc::new(Mutex::new(idle.add(&close)));
        Self { idle: Arc::clone(idle), close, turn }
    }

    /// A request came.
    pub(super) fn pause(&self) -> Busy {
        self.idle.remove(*lock(&self.turn));
        Busy { idle: Arc::clone(&self.idle), close: self.close.clone(), turn: Arc::clone(&self.turn) }
    }

    /// Returns when it is to make room.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.idle.remove(*lock(&self.turn));
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.turn) = self.idle.add(&self.close);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
