//! The DLX's process: flags, log, and then [`dlx::run`].

use std::process::ExitCode;

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;

fn main() -> ExitCode {
    let flags: dlx::Flags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::status(dlx::run(flags, Rules::default()))
}
