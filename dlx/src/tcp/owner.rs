//! Whose a port of `--service-ports` is, for connections that came before this DLX was told.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    dlx::{Dlx, MISS_PAUSE},
    serve::Identity,
};

/// How long a connection waits to be somebody's. Whoever led its client here has written down before that whose the port is:
/// all that can be late is what this DLX sees.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whose the port is, as soon as that is known; `None`: nobody's, or too many wait for such an answer already.
pub async fn owner(dlx: &Dlx, port: u16) -> Option<Identity> {
    let _place = dlx.strangers.try_acquire().ok()?;
    timeout(PATIENCE, told(dlx, port)).await.ok()
}

async fn told(dlx: &Dlx, port: u16) -> Identity {
    let mut asking = pin!(ask(dlx));
    let mut asked = false;
    loop {
        let mut routed = pin!(dlx.routed.notified());
        // From here on a change is not missed.
        routed.as_mut().enable();
        if let Some(identity) = dlx.table.load().by_port(port) {
            return identity.clone();
        }
        tokio::select! {
            () = routed => {}
            () = &mut asking, if !asked => asked = true,
        }
    }
}

/// Has the plugins asked once after this call, on behalf of this connection or of another.
async fn ask(dlx: &Dlx) {
    let came = std::time::Instant::now();
    while !dlx.ask_again(came).await {
        #[expect(clippy::disallowed_methods, reason = "the plugins are not asked more often than that")]
        sleep_until(Instant::now() + MISS_PAUSE).await;
    }
}
