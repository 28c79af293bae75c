//! What the reference page says of a namespace file's keys: taken from where they are declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_yaml::Spanned;

/// A key of a namespace file, for the reference page.
#[derive(Clone, Copy, Debug)]
pub struct FileKey {
    /// The map that it is in, `dlx`; empty: the file itself.
    pub section: &'static str,
    /// Its name in Rust's spelling: `hold_timeout` is `holdTimeout`.
    pub field: &'static str,
    /// What its value may be.
    pub expected: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// What it sets.
    pub meaning: &'static str,
}

/// What a value may be, in a few words.
pub(crate) trait Expected {
    const EXPECTED: &'static str;
}

/// A key that is there has a value: one without is a mistake, not an absence.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Declares a map of a namespace file: each key with its meaning, and what holds without it. An `Option` may be left out.
macro_rules! keys {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident in $section:literal {
            $(
                $(#[doc = $meaning:literal])+
                $(#[serde($($serde:tt)+)])?
                $field:ident: $type:ty, $default:literal;
            )+
        }
    ) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        $visibility struct $name {
            $(
                $(#[doc = $meaning])+
                $(#[serde($($serde)+)])?
                pub(crate) $field: $type,
            )+
        }

        impl $name {
            pub(crate) const KEYS: &'static [$crate::settings::FileKey] = &[$($crate::settings::FileKey {
                section: $section,
                field: stringify!($field),
                expected: <$type as $crate::settings::Expected>::EXPECTED,
                default: $default,
                meaning: concat!($($meaning),+),
            }),+];
        }
    };
}
pub(crate) use keys;

// === impl FileKey ===

impl FileKey {
    /// As it is written in the file: `dlx.holdTimeout`.
    pub fn path(&self) -> String {
        let mut path = self.section.to_owned();
        if !path.is_empty() {
            path.push('.');
        }
        let mut capital = false;
        for letter in self.field.chars() {
            match letter {
                '_' => capital = true,
                letter if std::mem::take(&mut capital) => path.push(letter.to_ascii_uppercase()),
                letter => path.push(letter),
            }
        }
        path
    }
}

// === impl Expected ===

impl<T: Expected> Expected for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
}

impl<T: Expected> Expected for Spanned<T> {
    const EXPECTED: &'static str = T::EXPECTED;
}

impl<T> Expected for Vec<T> {
    const EXPECTED: &'static str = "a list";
}

impl<K, V> Expected for BTreeMap<K, V> {
    const EXPECTED: &'static str = "a map";
}

impl Expected for String {
    const EXPECTED: &'static str = "a text";
}
