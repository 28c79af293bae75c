//! What the README says, held against what the programs say.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{build::Built, workspace::root};

/// Every flag that a daemon's `--help` names must be in the README's tables, and every flag of a table must exist.
///
/// # Errors
///
/// The flags that are missing on either side.
pub fn readme(built: &Built) -> Result<()> {
    let readme = fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let told: BTreeSet<String> = readme
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .flat_map(|line| flags(line.split('|').nth(1).unwrap_or_default()))
        .collect();
    let mut known = BTreeSet::new();
    for daemon in ["autoscaler", "dlx"] {
        let output = Command::new(built.program(daemon))
            .arg("--help")
            .output()
            .with_context(|| format!("starting {daemon} --help"))?;
        ensure!(output.status.success(), "{daemon} --help ended with {}", output.status);
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        // A flag's own line: `  -h, --help`, `      --config <FILE-or-DIR>`; prose is indented deeper or starts otherwise.
        known.extend(
            help.lines()
                .filter(|line| line.trim_start().starts_with('-'))
                .filter_map(|line| flags(line).into_iter().next()),
        );
    }
    known.retain(|flag| flag != "--help" && flag != "--version");
    let untold: Vec<_> = known.difference(&told).cloned().collect();
    let unknown: Vec<_> = told.difference(&known).cloned().collect();
    ensure!(untold.is_empty(), "README.md does not name {}", untold.join(", "));
    ensure!(unknown.is_empty(), "README.md names flags that neither daemon has: {}", unknown.join(", "));
    Ok(())
}

fn flags(text: &str) -> Vec<String> {
    let words = text.split(|character: char| !(character.is_ascii_lowercase() || character == '-'));
    words.filter(|word| word.starts_with("--") && word.len() > 3).map(str::to_owned).collect()
}
