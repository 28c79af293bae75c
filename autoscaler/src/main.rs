//! The autoscaler's process: flags, log, and then [`autoscaler::run`].

use std::process::ExitCode;

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;

fn main() -> ExitCode {
    let flags: autoscaler::Flags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::status(autoscaler::run(flags, Rules::default()))
}
