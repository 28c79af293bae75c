//! Ports for the resources themselves: they bind them again at every start, so no other test may get one meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    net::TcpListener,
    path::Path,
};

/// Below the ephemeral range (32768 on), so that no client socket takes one while its resource sleeps.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// A port nothing listens on, and that no other test of this machine's run is given.
///
/// # Panics
///
/// The counter beside the sites cannot be written, or every port is taken.
pub fn claim(counter: &Path) -> u16 {
    fs::create_dir_all(counter.parent().expect("the counter lies in a folder"))
        .expect("creating the counter's folder");
    let mut file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(counter)
        .unwrap_or_else(|error| panic!("opening {}: {error}", counter.display()));
    file.lock().expect("locking the port counter");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("reading the port counter");
    let mut port = text.trim().parse().unwrap_or(FIRST);
    for _ in FIRST..LAST {
        port = if port >= LAST { FIRST } else { port + 1 };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            file.set_len(0).expect("emptying the port counter");
            file.rewind().expect("rewinding the port counter");
            write!(file, "{port}").expect("writing the port counter");
            return port;
        }
    }
    panic!("every port between {FIRST} and {LAST} is taken");
}
