//! Reading enums of a later version: one value that this build does not know must not make a whole listing unreadable.

use serde::{Deserialize, Deserializer, de::IgnoredAny};

#[derive(Deserialize)]
#[serde(untagged)]
enum Value<T> {
    Known(T),
    Unknown(IgnoredAny),
}

/// An unknown value is read as none.
pub(crate) fn option<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Known(value) => value,
        Value::Unknown(_) => None,
    })
}

/// An unknown value is read as the default.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    option(deserializer).map(Option::unwrap_or_default)
}
