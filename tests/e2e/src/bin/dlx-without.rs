//! The DLX without the rules that `SCALER_WITHOUT` names.

use daemon::{exit, telemetry};

fn main() {
    let flags: dlx::DlxFlags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::end(dlx::run(flags, e2e::without::rules()))
}
