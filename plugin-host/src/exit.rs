//! The end of a process that has plugins.

/// Ends the process at once, with this status: no exit handler runs, neither ours nor a plugin's. They would run beside the
/// plugins' threads, and wait for whatever one of them holds.
pub fn exit(status: u8) -> ! {
    // SAFETY: `_exit` is POSIX's, takes any status, reads no memory and does not return.
    #[allow(unsafe_code)]
    unsafe extern "C" {
        safe fn _exit(status: i32) -> !;
    }
    _exit(i32::from(status))
}
