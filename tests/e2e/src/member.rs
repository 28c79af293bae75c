//! A member that is no DLX: it says that every resource was idle for ever, and keeps a fence open for as long as the
//! test wants it to.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use daemon::members::{Registration, register};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Site, until};

/// A member of a site.
#[derive(Debug)]
pub struct StandIn {
    _registration: Registration,
    /// How often it was asked to confirm a fence.
    asked: watch::Receiver<u32>,
    /// How many of those it may confirm.
    confirm: watch::Sender<u32>,
    server: JoinHandle<()>,
}

struct Server {
    name: String,
    namespace: String,
    resource: String,
    asked: watch::Sender<u32>,
    confirm: watch::Receiver<u32>,
}

// === impl StandIn ===

impl StandIn {
    /// Joins the members of a site; it speaks of one resource.
    ///
    /// # Panics
    ///
    /// It cannot.
    pub async fn join(site: &Site, namespace: &str, resource: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binding the stand-in's port");
        let address = listener.local_addr().expect("the stand-in's address");
        let registration = register(&site.folder().join("state"), address).expect("registering the stand-in");
        let (asked, asked_now) = watch::channel(0);
        let (confirm, may_confirm) = watch::channel(0);
        let server = Arc::new(Server {
            name: registration.name().to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            asked,
            confirm: may_confirm,
        });
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let serve = service_fn(|request: Request<Incoming>| server.clone().answer(request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { _registration: registration, asked: asked_now, confirm, server }
    }

    /// Waits until it is asked once more to confirm a fence, which stays open until [`StandIn::confirm`] or for the two
    /// seconds that the autoscaler waits.
    pub async fn asked(&mut self) -> u32 {
        let asked = &mut self.asked;
        let before = *asked.borrow_and_update();
        until("a fence", || {
            let now = *asked.borrow();
            async move { if now > before { Ok(now) } else { Err(format!("asked {now} times")) } }
        })
        .await
    }

    /// Confirms the fence of this number, and every earlier one.
    pub fn confirm(&self, number: u32) {
        self.confirm.send_replace(number);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// === impl Server ===

impl Server {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answer = match request.uri().path() {
            "/api/v1/activity" => json!({"member": self.name, "resources": [{
                "namespace": self.namespace, "name": self.resource, "kind": "process", "requests": 0, "in_flight": 0,
                "held": 0, "idle": null, "counting": "1h", "windows": {},
            }]}),
            "/api/v1/fence" => self.fence().await,
            path => panic!("a stand-in was asked for {path}"),
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        *response.status_mut() = StatusCode::OK;
        Ok(response)
    }

    async fn fence(&self) -> Value {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        // An error: the test is over.
        let _ = self.confirm.clone().wait_for(|confirm| *confirm >= number).await;
        json!({"confirmed": true})
    }
}
