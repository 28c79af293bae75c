//! The autoscaler without the rules that `SCALER_WITHOUT` names.

use std::process::ExitCode;

use daemon::{exit, telemetry};

fn main() -> ExitCode {
    let flags: autoscaler::Flags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::status(autoscaler::run(flags, e2e::without::rules()))
}
