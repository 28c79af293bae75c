//! How a daemon ends: 0 fine, 64 bad flags, 78 bad configuration, 1 anything else.

use std::process;

use crate::telemetry;

/// Exit status of flags that cannot be used (`EX_USAGE` of sysexits.h).
pub(crate) const BAD_FLAGS: u8 = 64;
/// Exit status of a configuration that cannot be used (`EX_CONFIG` of sysexits.h): a restart does not help.
pub(crate) const BAD_CONFIGURATION: u8 = 78;

/// The configuration cannot be used. An error that has this among its causes ends the process with
/// [`BAD_CONFIGURATION`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// Parses the process's arguments. Bad ones end it with [`BAD_FLAGS`], `--help` and `--version` with 0.
///
/// Comes first in `main`: a process that only tries out a plugin ends here.
pub fn parse_flags<F: clap::Parser>() -> F {
    plugin_host::answer_probe();
    F::try_parse().unwrap_or_else(|error| {
        // An error: nothing reads the output.
        drop(error.print());
        process::exit(if error.use_stderr() { i32::from(BAD_FLAGS) } else { 0 })
    })
}

/// How `main` ends: logs an error with all its causes, and ends the process with its status.
pub fn end(result: anyhow::Result<()>) -> ! {
    let status = match &result {
        Ok(()) => 0,
        Err(error) => {
            // Room for what matters most.
            telemetry::flush();
            tracing::error!("{error:#}");
            status_of(error)
        }
    };
    end_with(status)
}

/// Ends the process when what it logged is written; a plugin that hangs does not hold it up.
pub fn end_with(status: u8) -> ! {
    telemetry::flush();
    plugin_host::exit(status)
}

/// The status that an error ends the process with.
pub fn status_of(error: &anyhow::Error) -> u8 {
    // `anyhow` finds it also where it was added as context; the chain finds it behind other errors.
    let misconfigured = error.is::<Misconfigured>() || error.chain().any(|cause| cause.is::<Misconfigured>());
    if misconfigured { BAD_CONFIGURATION } else { 1 }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_bad_configuration_has_its_own_exit_status_whatever_context_is_added() {
        let misconfigured = || anyhow::Error::new(Misconfigured("no plugin".to_owned()));
        assert_eq!(status_of(&misconfigured()), 78);
        assert_eq!(status_of(&Err::<(), _>(misconfigured()).context("at start").unwrap_err()), 78);
        assert_eq!(status_of(&anyhow::anyhow!("no memory")), 1);
    }
}
