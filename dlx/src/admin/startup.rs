//! The admin server during the start: says why the DLX is not ready yet.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
};

use daemon::{admin::Admin, coordination::Coordinator, telemetry::registry};
use tokio_util::task::AbortOnDropHandle;

use crate::flags::DlxFlags;

/// Says why the DLX is not ready while it binds its ports and registers.
pub(crate) struct StartupStatus {
    why: Arc<Mutex<String>>,
    server: Option<AbortOnDropHandle<std::io::Result<()>>>,
}

// === impl StartupStatus ===

impl StartupStatus {
    /// Starts the server, if the start may take time.
    ///
    /// # Errors
    ///
    /// The socket cannot be shared.
    pub(crate) fn begin(
        flags: &DlxFlags,
        admin: &TcpListener,
        coordination: &Coordinator,
    ) -> anyhow::Result<Self> {
        let why = Arc::new(Mutex::new("starting".to_owned()));
        let takes_time =
            matches!(coordination, Coordinator::Leases(_)) || flags.common.service_ports.is_some();
        let server = takes_time.then(|| {
            let (admin, why) = (admin.try_clone()?, why.clone());
            let preliminary = Admin::new(registry("dlx"), None).closing().ready_when(
                "dlx",
                Arc::new(move || Err(why.lock().unwrap_or_else(PoisonError::into_inner).clone())),
            );
            anyhow::Ok(AbortOnDropHandle::new(tokio::spawn(preliminary.serve(admin))))
        });
        Ok(Self { why, server: server.transpose()? })
    }

    /// Sets the reason.
    pub(crate) fn set_reason(&self, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Stops the server: new connections wait for the real one.
    pub(crate) async fn end(self) {
        if let Some(server) = self.server {
            server.abort();
            // An error: it was aborted.
            let _ = server.await;
        }
    }
}
