//! `completion`: a script that completes a daemon's flags and commands in a shell.

use std::io::{self, Write as _};

use clap_complete::Shell;

use crate::exit;

/// Prints a script with which your shell completes flags and commands
///
/// Load it in the file that your shell reads when it starts, or save it where the shell looks for completions.
#[derive(clap::Args, Clone, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

// === impl Completion ===

impl Completion {
    /// Prints the script for the program of these flags.
    pub fn print<F: clap::CommandFactory>(&self) {
        let mut program = F::command();
        let name = program.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        if let Err(error) = io::stdout().write_all(&script)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            drop(writeln!(io::stderr(), "error: writing to standard output: {error}"));
            exit::end_with(1);
        }
    }
}
