//! Whose a port of `--service-ports` is, for connections that came before this DLX was told.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::Identifier;
use crate::{driver::UNKNOWN_HOST_DELAY, state::PortOwner};

/// How long a connection waits to be somebody's. Whoever led its client here has written down before that whose the port is:
/// all that can be late is what this DLX sees.
const PORT_OWNER_TIMEOUT: Duration = Duration::from_secs(3);

// === impl Identifier ===

impl Identifier {
    /// Whose the port is, as far as is known now.
    pub(crate) fn find_port(&self, port: u16) -> Option<PortOwner> {
        self.resources.table().by_port(port).cloned()
    }

    /// Whose the port is, as soon as that is known; `None`: nobody's, or too many wait for such an answer already.
    pub(crate) async fn wait_for_port(&self, port: u16) -> Option<PortOwner> {
        let _place = self.waiting_for_owner.try_acquire().ok()?;
        timeout(PORT_OWNER_TIMEOUT, self.await_port_owner(port)).await.ok()
    }

    async fn await_port_owner(&self, port: u16) -> PortOwner {
        let mut asking = pin!(self.request_listing());
        let mut listed = false;
        loop {
            let mut replaced = pin!(self.resources.replaced());
            // From here on a change is not missed.
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

    /// Has the plugins asked once after this call, on behalf of this connection or of another.
    async fn request_listing(&self) {
        let came = std::time::Instant::now();
        while !self.plugins.ask_again(came).await {
            #[expect(clippy::disallowed_methods, reason = "the plugins are not asked more often than that")]
            sleep_until(Instant::now() + UNKNOWN_HOST_DELAY).await;
        }
    }
}
