//! Hashes a state without regard to what versions, nonces and members are called.
//!
//! Versions, nonces and members'
//! names are compared for equality alone, so two states that differ only in their names behave alike.
//! The hasher renames each by the order of its first appearance, and the explorer meets such states once.

use std::hash::{DefaultHasher, Hash, Hasher};

use scaler_types::{Nonce, Version};

/// Set in every nonce the model draws, so that the hasher knows one when it sees it.
const NONCE: u64 = 1 << 63;

/// A hasher that renames versions, nonces and members by first appearance.
#[derive(Default)]
pub struct Canon {
    inner: DefaultHasher,
    names: Vec<u64>,
}

/// The `number`th nonce.
pub fn nonce(number: u32) -> Nonce {
    Nonce(NONCE | u64::from(number))
}

/// The `number`th version: the letter `v` and the number's bytes in hexadecimal.
pub fn version(number: u32) -> Version {
    Version(format!("v{number:04x}"))
}

/// The name of the `number`th incarnation in a place: `m`, place and number.
pub fn member(place: usize, number: u8) -> String {
    format!("m{place}{number:01x}")
}

/// A fingerprint.
pub fn fingerprint<T: Hash>(state: &T) -> u64 {
    let mut hasher = Canon::default();
    state.hash(&mut hasher);
    hasher.finish()
}

// === impl Canon ===

impl Canon {
    fn rename(&mut self, name: u64) -> u64 {
        let place = self.names.iter().position(|known| *known == name);
        place.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        }) as u64
    }
}

impl Hasher for Canon {
    fn write(&mut self, bytes: &[u8]) {
        // A version has five bytes, a member's name three. Nothing else in a state is hashed as so many.
        if let [b'v', a, b, c, d] = *bytes {
            let name = self.rename(u64::from(u32::from_be_bytes([a, b, c, d])));
            self.inner.write_u64(name);
        } else if let [b'm', a, b] = *bytes {
            let name = self.rename(u64::from(u32::from_be_bytes([b'm', a, b, 0])));
            self.inner.write_u64(name);
        } else {
            self.inner.write(bytes);
        }
    }

    fn write_u64(&mut self, number: u64) {
        let number = if number & NONCE == 0 { number } else { self.rename(number) };
        self.inner.write_u64(number);
    }

    fn finish(&self) -> u64 {
        self.inner.finish()
    }
}
