//! The DLX's process: flags, log, and then [`dlx::run`].

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;

fn main() {
    let flags: dlx::DlxFlags = exit::parse_flags();
    telemetry::init(flags.common.log_format);
    exit::end(dlx::run(flags, Rules::default()))
}
