//! The autoscaler's process: flags, log, and then [`autoscaler::run`], or one of the commands.

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;

fn main() {
    let mut flags: autoscaler::Flags = exit::parse_flags();
    if let Some(command) = flags.command.take() {
        autoscaler::cli::main(command);
    }
    telemetry::init(flags.common.log_format);
    exit::end(autoscaler::run(flags, Rules::default()))
}
