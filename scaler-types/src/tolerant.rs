//! Reading what a later version wrote: one value that this build does not know must not make the rest unreadable. Not part of the
//! contract; plugins of this repository use it for what they store.

use serde::{Deserialize, Deserializer, de::IgnoredAny};

#[derive(Deserialize)]
#[serde(untagged)]
enum Value<T> {
    Known(T),
    Unknown(IgnoredAny),
}

/// Reads an unknown value as none.
///
/// # Errors
///
/// The input ends early, or is no JSON.
pub fn option<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Known(value) => value,
        Value::Unknown(_) => None,
    })
}

/// Reads an unknown value as the default.
///
/// # Errors
///
/// As [`option`].
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    option(deserializer).map(Option::unwrap_or_default)
}
