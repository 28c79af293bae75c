//! The autoscaler without the rules that `SCALER_WITHOUT` names.

use daemon::{exit, telemetry};

fn main() {
    let flags: autoscaler::AutoscalerFlags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::end(autoscaler::run(flags, e2e::without::rules()))
}
