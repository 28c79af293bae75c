//! What became of each request, as its client saw it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The resource answered; by which of its incarnations.
    Answered {
        /// The process that answered.
        by: String,
    },
    /// One of ours said that it never reached the resource: 503 with `Retry-After`.
    Refused {
        /// The body's `reason`.
        reason: String,
    },
    /// The connection was closed by the other side before the request reached its kernel, while the request was on its
    /// way (RFC 9112 9.3.1 lets the client send it again; these do not).
    Crossed,
    /// None of these.
    Lost(Lost),
}

/// How a request was lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// The connection was refused, or reset before anything was sent.
    Connect(String),
    /// It was sent; the connection then ended without a byte of answer.
    NoAnswer(String),
    /// The answer broke off.
    CutShort(String),
    /// An answer that neither comes from the resource nor says that it never reached it.
    Status(u16, String),
}

/// Draws ids that are unique in a run.
#[derive(Debug, Default)]
pub struct Ids {
    prefix: String,
    next: AtomicU64,
}

/// Every request of a run and its outcome, shared by the clients.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<String, Outcome>>>);

// === impl Ids ===

impl Ids {
    /// Ids that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), next: AtomicU64::new(0) }
    }

    /// A new id.
    pub fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

// === impl Ledger ===

impl Ledger {
    /// Writes down what became of `id`.
    ///
    /// # Panics
    ///
    /// It has an outcome already: the client sent it twice, and the test is wrong.
    pub fn record(&self, id: String, outcome: Outcome) {
        let earlier = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), outcome);
        assert!(earlier.is_none(), "request {id} was sent twice by its own client");
    }

    /// All of them, by id.
    pub fn all(&self) -> BTreeMap<String, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === impl Lost ===

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "could not connect: {error}"),
            Self::NoAnswer(error) => write!(f, "sent, then no byte of answer: {error}"),
            Self::CutShort(error) => write!(f, "the answer broke off: {error}"),
            Self::Status(status, body) => write!(f, "status {status}: {body}"),
        }
    }
}
