//! The sleep protocol's record, kept with the resource itself.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::tolerant;

/// What is stored with a resource: where it stands between awake and asleep.
///
/// Every change is a compare-and-set on the resource's [`Version`]; which changes there are is
/// [`protocol::transition`](crate::protocol::transition)'s business alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub phase: Phase,
    /// New with every change: no drain attempt is taken for another.
    #[serde(default)]
    pub nonce: Nonce,
    /// Why, human-readable: "idle for 10m", "woken by a request", the cause of a failed wake.
    #[serde(default)]
    pub reason: String,
    /// Why its last wake failed, until one succeeds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed_wake: String,
    /// The record's format. A reader that finds a later one than it knows changes nothing, and forwards no request while the
    /// phase is `asleep`.
    #[serde(default)]
    pub format: u32,
}

/// Where a resource stands between awake and asleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Awake: requests are forwarded.
    #[default]
    Active,
    /// The autoscaler asks every DLX whether the resource may be scaled to zero.
    Draining,
    /// Scaled to zero: requests are held and wake it.
    Asleep,
    /// On its way up: requests are forwarded as soon as an endpoint answers.
    Waking,
    /// The last wake could not succeed; the next request tries again.
    Failed,
}

/// Identifies one change of a record. Drawn at random by whoever makes the change.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub u64);

/// A resource's version: an opaque token that changes whenever record or scale do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

// === impl Record ===

impl Record {
    /// The newest record format this build reads and the one it writes.
    pub const FORMAT: u32 = 1;

    /// Reads what can be read of a JSON record of a later format; none if it is not one.
    pub fn parse_later(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Later {
            #[serde(default, deserialize_with = "tolerant::option")]
            phase: Option<Phase>,
            format: u32,
        }
        let Later { phase, format } = serde_json::from_str(json).ok()?;
        (format > Self::FORMAT).then(|| Self::later(phase, format))
    }

    /// A record of a later format, of which only the phase could be read, if that.
    fn later(phase: Option<Phase>, format: u32) -> Self {
        let reason = "written by a later version".to_owned();
        Self {
            phase: phase.unwrap_or_default(),
            reason,
            format: format.max(Self::FORMAT + 1),
            ..Self::default()
        }
    }

    /// Reads a record of any format: what cannot be read counts as a later format.
    pub(crate) fn deserialize_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Known(Record),
            Later {
                #[serde(default, deserialize_with = "tolerant::option")]
                phase: Option<Phase>,
                #[serde(default)]
                format: u32,
            },
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Known(record) => record,
            Any::Later { phase, format } => Self::later(phase, format),
        })
    }
}

impl Default for Record {
    /// A resource nobody has written on yet is active.
    fn default() -> Self {
        Self {
            phase: Phase::Active,
            nonce: Nonce(0),
            reason: String::new(),
            failed_wake: String::new(),
            format: Self::FORMAT,
        }
    }
}

// === impl Phase ===

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Active => "active",
            Phase::Draining => "draining",
            Phase::Asleep => "asleep",
            Phase::Waking => "waking",
            Phase::Failed => "failed",
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
