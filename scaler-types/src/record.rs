//! The sleep protocol's record, kept with the resource itself.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny},
};

use crate::tolerant;

/// The protocol's state of a resource, stored with it.
///
/// Every change is a compare-and-set on the resource's [`Version`]; only
/// [`protocol::transition`](crate::protocol::transition) says which changes there are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Its phase between awake and asleep.
    pub phase: Phase,
    /// New with every change, so that two drain attempts are never confused.
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

/// The phase of a resource between awake and asleep.
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
    /// The last wake failed and cannot succeed by itself; the next request starts another.
    Failed,
}

/// Identifies one change of a record. Drawn at random by the process that makes the change.
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

    /// Reads what can be read of a JSON record that a later version wrote: its format, or its phase, is none that this build knows.
    /// None if no later version did.
    pub fn parse_later(json: &str) -> Option<Self> {
        serde_json::from_str::<Readable>(json).ok()?.later()
    }

    /// Reads a record of any format. A later version's record is read as far as possible.
    ///
    /// # Errors
    ///
    /// It is no record, of any format.
    pub(crate) fn deserialize_stored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AnyRecord::deserialize(deserializer)? {
            AnyRecord::Known(record) => Ok(record),
            AnyRecord::Readable(readable) => {
                readable.later().ok_or_else(|| de::Error::custom("this is no record"))
            }
            AnyRecord::Unreadable(_) => Err(de::Error::custom("this is no record")),
        }
    }

    /// As [`deserialize_stored`](Self::deserialize_stored); what is no record counts as one of a later format, which is left alone.
    pub(crate) fn deserialize_listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match AnyRecord::deserialize(deserializer)? {
            AnyRecord::Known(record) => record,
            AnyRecord::Readable(Readable { phase, format }) => Self::of_later_format(phase.known(), format),
            AnyRecord::Unreadable(_) => Self::of_later_format(None, u32::MAX),
        })
    }

    fn of_later_format(phase: Option<Phase>, format: u32) -> Self {
        let reason = "written by a later version".to_owned();
        let format = format.max(Self::FORMAT + 1);
        Self { phase: phase.unwrap_or_default(), reason, format, ..Self::default() }
    }
}

/// A record as this build may find it.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyRecord {
    Known(Record),
    Readable(Readable),
    Unreadable(IgnoredAny),
}

/// The part of a record that this build can read, where it cannot read it whole.
#[derive(Deserialize)]
struct Readable {
    phase: AnyPhase,
    #[serde(default, deserialize_with = "format_or_later")]
    format: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyPhase {
    Known(Phase),
    Later(#[expect(dead_code, reason = "only a string can be a phase")] String),
}

/// A format that is no number is a later one.
fn format_or_later<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(tolerant::option(deserializer)?.unwrap_or(u32::MAX))
}

// === impl Readable ===

impl Readable {
    /// The record, if a later version wrote it.
    fn later(self) -> Option<Record> {
        let is_later = self.format > Record::FORMAT || matches!(self.phase, AnyPhase::Later(_));
        is_later.then(|| Record::of_later_format(self.phase.known(), self.format))
    }
}

// === impl AnyPhase ===

impl AnyPhase {
    fn known(self) -> Option<Phase> {
        match self {
            Self::Known(phase) => Some(phase),
            Self::Later(_) => None,
        }
    }
}

impl Default for Record {
    /// A resource that was never written is active.
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
    /// A nonce that was never used: drawn at random, and never the 0 of a resource that was never written.
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
