//! Finds the owner of a port of `--service-ports`, also for connections that come before this DLX sees it.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::Identifier;
use crate::{driver::UNKNOWN_HOST_DELAY, state::PortOwner};

/// How long a connection waits for its port to have an owner. The owner is written before a Service points here: only
/// this DLX's view can be late.
const PORT_OWNER_TIMEOUT: Duration = Duration::from_secs(3);

// === impl Identifier ===

impl Identifier {
    /// The owner of the port, as far as is known now.
    pub(crate) fn find_port(&self, port: u16) -> Option<PortOwner> {
        self.resources.table().by_port(port).cloned()
    }

    /// The owner of the port, as soon as it is known; `None`: there is none, or too many connections wait already.
    pub(crate) async fn wait_for_port(&self, port: u16) -> Option<PortOwner> {
        let _place = self.waiting_for_owner.try_acquire().ok()?;
        timeout(PORT_OWNER_TIMEOUT, self.await_port_owner(port)).await.ok()
    }

    async fn await_port_owner(&self, port: u16) -> PortOwner {
        let mut asking = pin!(self.request_listing());
        let mut listed = false;
        loop {
            let mut replaced = pin!(self.resources.replaced());
            // From here on no change is missed.
            replaced.as_mut().enable();
            if let Some(identity) = self.find_port(port) {
                return identity;
            }
            tokio::select! {
                () = replaced => {}
                () = &mut asking, if !listed => listed = true,
            }
        }
    }

    /// Has the plugins list once after this call, for this connection or for another.
    async fn request_listing(&self) {
        let came = std::time::Instant::now();
        while !self.plugins.ask_again(came).await {
            #[expect(clippy::disallowed_methods, reason = "the plugins list no more often than that")]
            sleep_until(Instant::now() + UNKNOWN_HOST_DELAY).await;
        }
    }
}
