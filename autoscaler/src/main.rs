//! The autoscaler's process: flags, then a command, or the log and [`autoscaler::run`].

use daemon::{exit, telemetry};
use scaler_types::protocol::Rules;
use tikv_jemallocator::Jemalloc;

/// Unlike the C library's, it returns the memory of a burst of requests.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() {
    let mut flags: autoscaler::AutoscalerFlags = exit::parse_flags();
    flags.run_command();
    telemetry::init(flags.common.log_format);
    exit::end(autoscaler::run(flags, Rules::default()))
}
