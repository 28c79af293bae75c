//! Uids, generated names, times.

use std::hash::{BuildHasher, RandomState};

use k8s_openapi::jiff::Timestamp;

/// Letters of generated names: no vowels and nothing that looks like another, as the real server has it.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A fresh uid.
pub fn uid() -> String {
    let (a, b) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        (b >> 48) & 0x3fff | 0x8000,
        b & 0xffff_ffff_ffff
    )
}

/// `prefix` and five letters.
pub fn generated(prefix: &str) -> String {
    let mut rest = random();
    let mut name: String = prefix.chars().take(58).collect();
    for _ in 0..5 {
        name.push(char::from(LETTERS[usize::try_from(rest % LETTERS.len() as u64).unwrap_or_default()]));
        rest /= LETTERS.len() as u64;
    }
    name
}

/// Now, to the second.
pub fn now() -> String {
    time_at(Timestamp::now().as_second())
}

/// `seconds` from now.
pub fn after(seconds: i64) -> String {
    time_at(Timestamp::now().as_second() + seconds)
}

fn time_at(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn random() -> u64 {
    // Each state is keyed anew.
    RandomState::new().hash_one(std::process::id())
}
