//! The daemon's allocator returns memory: jemalloc, with the options of `.cargo/config.toml`, says so when it ends.

use std::process::Command;

#[test]
fn unused_memory_is_returned_after_a_second_in_the_background() {
    let output = Command::new(env!("CARGO_BIN_EXE_dlx"))
        .arg("--version")
        .env("_RJEM_MALLOC_CONF", "stats_print:true")
        .output()
        .unwrap();
    let statistics = String::from_utf8(output.stderr).unwrap();
    for option in ["opt.background_thread: true", "opt.dirty_decay_ms: 1000", "opt.muzzy_decay_ms: 0"] {
        assert!(statistics.contains(option), "{option}: {statistics}");
    }
}
