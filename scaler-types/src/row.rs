//! The sleep protocol's record, kept with the resource itself.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use serde::{Deserialize, Serialize};

/// What is written on a resource: where it stands between awake and asleep.
///
/// Every change is a compare-and-set on the resource's [`Version`]; which changes there are is
/// [`protocol::transition`](crate::protocol::transition)'s business alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// Where it stands.
    pub state: State,
    /// New with every change, so that nobody takes one fence for another.
    #[serde(default)]
    pub nonce: Nonce,
    /// Why, for people: "idle for 10m", "woken by a request", the cause of a failed wake.
    #[serde(default)]
    pub reason: String,
    /// Why its last wake failed, until one succeeds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed_wake: String,
    /// The row's own format; a reader that finds a higher one than it knows leaves the resource alone.
    #[serde(default)]
    pub format: u32,
}

/// Where a resource stands between awake and asleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Awake: requests are forwarded.
    #[default]
    Active,
    /// Fenced: the autoscaler asks every DLX whether it may go to sleep.
    Draining,
    /// Committed to zero: requests are held and wake it.
    Asleep,
    /// On its way up: requests are forwarded as soon as an endpoint answers.
    Waking,
    /// The last wake could not succeed; the next request tries again.
    Failed,
}

/// Identifies one change of a row. Drawn at random by whoever makes the change.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub u64);

/// A resource's version: an opaque token that changes whenever row or scale do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

// === impl Row ===

impl Row {
    /// The newest row format this build reads and the one it writes.
    pub const FORMAT: u32 = 1;
}

impl Default for Row {
    /// A resource nobody has written on yet is active.
    fn default() -> Self {
        Self {
            state: State::Active,
            nonce: Nonce(0),
            reason: String::new(),
            failed_wake: String::new(),
            format: Self::FORMAT,
        }
    }
}

// === impl State ===

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Active => "active",
            State::Draining => "draining",
            State::Asleep => "asleep",
            State::Waking => "waking",
            State::Failed => "failed",
        })
    }
}

// === impl Nonce ===

impl Nonce {
    /// A nonce nobody has used: drawn at random, and never the 0 of a resource nobody has written on.
    pub fn fresh() -> Self {
        // Keys from the operating system, another one for every state: no dependency for one number.
        Self(RandomState::new().build_hasher().finish().max(1))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> String {
        nonce.to_string()
    }
}

impl TryFrom<String> for Nonce {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Nonce)
    }
}

// === impl Version ===

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
