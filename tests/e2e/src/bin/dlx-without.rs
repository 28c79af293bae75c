//! The DLX without the rules that `SCALER_WITHOUT` names.

use std::process::ExitCode;

use daemon::{exit, telemetry};

fn main() -> ExitCode {
    let flags: dlx::Flags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::status(dlx::run(flags, e2e::without::rules()))
}
