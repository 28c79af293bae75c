//! The fingerprint of a plugin's configuration, as one number: equal as long as nothing in it changed.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// Of a YAML value: its contents, whatever its comments, spacing and place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

struct Into_<'a>(&'a mut DefaultHasher);

// === impl Fingerprint ===

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut hasher = DefaultHasher::new();
        Into_(&mut hasher).deserialize(deserializer)?;
        Ok(Self(hasher.finish()))
    }
}

// === impl Into_ ===

impl<'de> DeserializeSeed<'de> for Into_<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Into_<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plugin's configuration")
    }

    // The leading number distinguishes the kinds: "1" is not 1, and an empty list not an empty map.
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        (0_u8, value).hash(self.0);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        (1_u8, i128::from(value)).hash(self.0);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        (1_u8, i128::from(value)).hash(self.0);
        Ok(())
    }

    fn visit_i128<E>(self, value: i128) -> Result<(), E> {
        (1_u8, value).hash(self.0);
        Ok(())
    }

    fn visit_u128<E>(self, value: u128) -> Result<(), E> {
        (2_u8, value).hash(self.0);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        (3_u8, value.to_bits()).hash(self.0);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        (4_u8, value).hash(self.0);
        Ok(())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        (5_u8, value).hash(self.0);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        6_u8.hash(self.0);
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        6_u8.hash(self.0);
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        7_u8.hash(self.0);
        let mut count = 0_usize;
        while items.next_element_seed(Into_(self.0))?.is_some() {
            count += 1;
        }
        (8_u8, count).hash(self.0);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        9_u8.hash(self.0);
        let mut count = 0_usize;
        while entries.next_key_seed(Into_(self.0))?.is_some() {
            entries.next_value_seed(Into_(self.0))?;
            count += 1;
        }
        (10_u8, count).hash(self.0);
        Ok(())
    }
}
