//! A member that is no DLX: it reports that its resources were idle for ever, and keeps a drain attempt open for as long as the
//! test wants it to.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use daemon::members::files::{MemberFile, register};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Site, random::Random, until, wait::pause};

/// A member of a site.
#[derive(Debug)]
pub struct StandIn {
    _registration: MemberFile,
    /// How often it was asked to confirm a drain attempt.
    asked: watch::Receiver<u32>,
    /// How many of those it may confirm.
    confirm: watch::Sender<u32>,
    /// Whether it reports its activity when it is asked.
    tells: watch::Sender<bool>,
    /// Whether it says that a request is in flight.
    busy: watch::Sender<bool>,
    /// How often it was asked.
    wanted: watch::Receiver<u32>,
    server: JoinHandle<()>,
}

struct Server {
    activity: Value,
    asked: watch::Sender<u32>,
    confirm: watch::Receiver<u32>,
    tells: watch::Receiver<bool>,
    busy: watch::Receiver<bool>,
    wanted: watch::Sender<u32>,
    /// Confirms by itself, after up to [`SLOW`].
    slow: Option<Mutex<Random>>,
}

/// Many times what a real DLX takes, so that requests come while a drain attempt is open and the others have confirmed.
const SLOW: Duration = Duration::from_millis(40);

// === impl StandIn ===

impl StandIn {
    /// Joins the members of a site; it reports one resource, and confirms when the test says so.
    pub async fn join(site: &Site, namespace: &str, resource: &str) -> Self {
        Self::new(site, namespace, &[resource], None).await
    }

    /// Joins the members of a site; it reports these resources, and confirms every drain attempt after a while of its own.
    pub async fn join_slow(site: &Site, namespace: &str, resources: &[&str], random: Random) -> Self {
        Self::new(site, namespace, resources, Some(Mutex::new(random))).await
    }

    async fn new(site: &Site, namespace: &str, resources: &[&str], slow: Option<Mutex<Random>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binding the stand-in's port");
        let address = listener.local_addr().expect("the stand-in's address");
        let registration = register(&site.folder().join("state"), address).expect("registering the stand-in");
        let (asked, asked_now) = watch::channel(0);
        let (confirm, may_confirm) = watch::channel(0);
        let (tells, may_tell) = watch::channel(true);
        let (busy, is_busy) = watch::channel(false);
        let (wanted, wanted_now) = watch::channel(0);
        let idle = resources.iter().map(|name| {
            json!({
                "namespace": namespace, "name": name, "kind": "process", "requests": 0, "in_flight": 0, "held": 0,
                "idle": null, "counted_for": "1h", "windows": {},
            })
        });
        let activity = json!({"member": registration.name(), "resources": idle.collect::<Vec<_>>()});
        let server = Arc::new(Server {
            activity,
            asked,
            confirm: may_confirm,
            tells: may_tell,
            busy: is_busy,
            wanted,
            slow,
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
        Self {
            _registration: registration,
            asked: asked_now,
            confirm,
            tells,
            busy,
            wanted: wanted_now,
            server,
        }
    }

    /// Waits until it is asked once more to confirm a drain attempt, which stays open until [`StandIn::confirm`] or for the two
    /// seconds that the autoscaler waits.
    pub async fn asked(&mut self) -> u32 {
        let asked = &mut self.asked;
        let before = *asked.borrow_and_update();
        until("a drain attempt", || {
            let now = *asked.borrow();
            async move { if now > before { Ok(now) } else { Err(format!("asked {now} times")) } }
        })
        .await
    }

    /// Whether requests for its activity are answered from now on, or wait.
    pub fn answer_activity(&self, answer: bool) {
        self.tells.send_replace(answer);
    }

    /// From now on, or no more, says that a request of each of its resources is in flight.
    pub fn say_busy(&self, busy: bool) {
        self.busy.send_replace(busy);
    }

    /// Waits until it is asked for its activity once more.
    pub async fn wanted(&mut self) {
        self.wanted.borrow_and_update();
        self.wanted.changed().await.expect("its server runs");
    }

    /// Confirms the drain attempt of this number, and every earlier one.
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
            "/api/v1/activity" => {
                self.wanted.send_modify(|wanted| *wanted += 1);
                // An error: the test is over.
                let _ = self.tells.clone().wait_for(|tells| *tells).await;
                let mut activity = self.activity.clone();
                for resource in activity["resources"].as_array_mut().into_iter().flatten() {
                    resource["in_flight"] = json!(u32::from(*self.busy.borrow()));
                }
                activity
            }
            "/api/v1/confirm-drain" => self.confirm_drain().await,
            // It never stops.
            "/api/v1/last-activity" => std::future::pending().await,
            path => panic!("a stand-in was asked for {path}"),
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        *response.status_mut() = StatusCode::OK;
        Ok(response)
    }

    async fn confirm_drain(&self) -> Value {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        if let Some(random) = &self.slow {
            let while_ = random.lock().unwrap_or_else(PoisonError::into_inner).between(Duration::ZERO..SLOW);
            pause(while_).await;
            return json!({"confirmed": true});
        }
        // An error: the test is over.
        let _ = self.confirm.clone().wait_for(|confirm| *confirm >= number).await;
        json!({"confirmed": true})
    }
}
