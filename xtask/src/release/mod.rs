//! A release: its version, its notes and its archive. .github/workflows/release.yml runs these; tests run them, too.

mod archive;
mod sbom;
mod version;

use anyhow::Result;

use crate::build::build;
use crate::workspace::Profile;

/// What the release workflow runs: checks the version, prints the notes, makes the archive
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask release check v1.2.3          the versions agree with this tag
  cargo xtask release archive               the files of a release, for this machine")]
pub struct Release {
    #[command(subcommand)]
    step: Step,
}

#[derive(clap::Subcommand)]
enum Step {
    /// Checks that TAG, the workspace, the chart and CHANGELOG.md have the same version, and prints it
    Check {
        /// The tag, e.g. v1.2.3
        tag: String,
    },
    /// Prints the section of CHANGELOG.md of this version
    Notes {
        /// The version, e.g. 1.2.3
        #[arg(default_value = env!("CARGO_PKG_VERSION"))]
        version: String,
    },
    /// Makes target/release-files/scaler-VERSION-linux-ARCH.tar.gz, its .sha256 and its bill of materials (CycloneDX), from a release
    /// build on this machine
    Archive,
}

// === impl Release ===

impl Release {
    /// Runs the step.
    ///
    /// # Errors
    ///
    /// The versions differ, the changelog has no such section, or the archive cannot be made.
    pub fn run(&self) -> Result<()> {
        match &self.step {
            Step::Check { tag } => println!("{}", version::check(tag)?),
            Step::Notes { version } => println!("{}", version::notes(version)?),
            Step::Archive => println!("{}", archive::make(&build(Profile::Release)?)?.display()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use crate::{Cli, images, workspace::root};

    fn workflow(name: &str) -> String {
        fs::read_to_string(root().join(".github/workflows").join(name)).unwrap()
    }

    #[test]
    fn the_workflow_runs_commands_that_exist() {
        let text = workflow("release.yml");
        let commands = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let commands = commands.filter_map(|line| line.split_once("cargo xtask ").map(|(_, rest)| rest));
        let mut count = 0;
        for command in commands {
            let command = command.split([')', '>']).next().unwrap_or_default();
            // A value of the forge's is one word.
            let command = command.replace("${{ matrix.arch }}", "amd64").replace('"', "");
            let words = std::iter::once("xtask").chain(command.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
            count += 1;
        }
        assert_eq!(count, 4);
    }

    #[test]
    fn the_workflow_publishes_every_image() {
        let images = format!("\n  IMAGES: {}\n", images::names().unwrap().join(" "));
        assert!(workflow("release.yml").contains(&images), "{images}");
    }

    #[test]
    fn ci_runs_what_a_person_runs() {
        assert!(workflow("ci.yml").contains("- run: .ci/run\n"));
    }
}
