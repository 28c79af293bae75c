//! The pages under docs/reference are what the daemons declare. `cargo xtask reference` writes them.

mod admin_api;
mod commands;
mod flags;
mod metrics;
mod rights;
mod texts;

use std::{env, fs};

use deploy::root;

/// Set: the pages are written, not compared.
const WRITE: &str = "SCALER_WRITE_REFERENCE";

/// Writes the page, or compares it with the one that is there.
fn page(name: &str, text: &str) {
    let path = root().join("docs/reference").join(name);
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("making docs/reference");
        fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    for (number, (there, text)) in there.lines().zip(text.lines()).enumerate() {
        assert_eq!(there, text, "docs/reference/{name}:{}: run `cargo xtask reference`", number + 1);
    }
    assert_eq!(there, text, "docs/reference/{name}: run `cargo xtask reference`");
}

/// In a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
