//! The first signal drains, the second ends at once.
use tokio_util::sync::CancellationToken;
/// Cloneable; `draining` is cancelled by the first SIGTERM or SIGINT; the second one exits the process with 130/143.
#[derive(Clone)]
pub struct Shutdown { pub draining: CancellationToken }
impl Shutdown { pub fn on_signals() -> std::io::Result<Self> { todo!() } }
