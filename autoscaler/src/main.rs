//! The autoscaler's process: flags, then a command, or the log and [`autoscaler::run`].

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;

fn main() {
    let mut flags: autoscaler::AutoscalerFlags = exit::parse_flags();
    flags.run_command();
    telemetry::init(flags.common.log_format);
    exit::end(autoscaler::run(flags, Rules::default()))
}
