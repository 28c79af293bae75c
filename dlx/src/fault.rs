//! Faults that a test seeds, to see that the differential fuzzer finds each. A DLX that is not under test has none.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SeededFault {
    /// A length may have a sign.
    LaxLength = 1,
    /// The first of two Hosts counts.
    SecondHost,
    /// Lines that end with LF alone are passed on as they are.
    BareLf,
    /// A chunk's size is taken modulo 2^64.
    ChunkOverflow,
    /// The last byte of a body is taken for the next request's.
    ShortBody,
    /// A connection to a resource is kept although bytes followed the answer.
    Leftovers,
    /// A body may be chunked twice: the library accepts it, nginx and HAProxy do not.
    ChunkedTwice,
}

/// Whether this fault was seeded.
#[cfg(not(test))]
pub(crate) const fn is_seeded(_: SeededFault) -> bool {
    false
}

#[cfg(test)]
static SEEDED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether this fault was seeded.
#[cfg(test)]
pub(crate) fn is_seeded(fault: SeededFault) -> bool {
    SEEDED.load(std::sync::atomic::Ordering::Relaxed) == fault as u8
}

/// Seeds a fault for the rest of the process: each test has a process of its own.
#[cfg(test)]
pub(crate) fn seed(fault: SeededFault) {
    SEEDED.store(fault as u8, std::sync::atomic::Ordering::Relaxed);
}
