//! What the tests stand on: a plugin in memory, and DLXs that are real servers with a script.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use daemon::{
    coordination::Coordinator,
    members::{
        files::{MemberFile, register},
        serving::ReadyDlxs,
    },
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use scaler_types::ResourceId;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    interception::{InterceptionConditions, ServingDlxs},
    observe::members::{MemberTimeouts, Members},
    telemetry::AutoscalerMetrics,
};

mod broker;
mod store;

pub(crate) use broker::Broker;
pub(crate) use store::{Inner, SetBackendCall, Store, sleeper};

/// The kind of the plugin in memory.
pub(crate) const KIND: &str = "memory";

/// A name in namespace `demo`.
pub(crate) fn id(name: &str) -> ResourceId {
    ResourceId::new("demo", name)
}

/// What a DLX answers to one request.
pub(crate) enum Reply {
    /// This.
    Json(StatusCode, Value),
    /// Nothing, as long as the test lasts.
    Never,
}

/// A DLX: registered as a member, with a script for its answers.
pub(crate) struct Dlx {
    /// The name it is registered under.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The requests it got: path and query, headers as text, body.
    pub(crate) requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    registration: Option<MemberFile>,
    _serving: DropGuard,
}

/// One request a DLX got.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    /// Path and query.
    pub(crate) path: String,
    /// The `Authorization` header.
    pub(crate) authorization: Option<String>,
    /// The body; null if there was none.
    pub(crate) body: Value,
}

type Script = Arc<dyn Fn(&str, &ReceivedRequest) -> Reply + Send + Sync>;

// === impl Dlx ===

impl Dlx {
    /// A DLX that answers by `script`, which gets its name and the request.
    pub(crate) fn start(
        state_dir: &Path,
        script: impl Fn(&str, &ReceivedRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let registration = register(state_dir, listener.local_addr().unwrap()).unwrap();
        let name = registration.name().to_owned();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let serving = CancellationToken::new();
        let serve = serve(
            tokio::net::TcpListener::from_std(listener).unwrap(),
            name.clone(),
            Arc::new(script),
            requests.clone(),
        );
        tokio::spawn(serving.clone().run_until_cancelled_owned(serve));
        Self { name, address, requests, registration: Some(registration), _serving: serving.drop_guard() }
    }

    /// One that confirms every drain attempt, and has seen no request of `names` for an hour.
    pub(crate) fn quiet(state_dir: &Path, names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        Self::start(state_dir, move |member, request| match request.path.as_str() {
            "/api/v1/confirm-drain" => confirmed(),
            _ => Reply::Json(StatusCode::OK, activity(member, names.iter().map(|name| idle(name)))),
        })
    }

    /// It is no member any more.
    pub(crate) fn leave(&mut self) {
        self.registration = None;
    }

    /// How often it was asked for this path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.path.starts_with(path)).count()
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    name: String,
    script: Script,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
) -> Infallible {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (name, script, requests) = (name.clone(), script.clone(), requests.clone());
        tokio::spawn(http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(move |request: Request<Incoming>| {
                let (name, script, requests) = (name.clone(), script.clone(), requests.clone());
                async move { answer(&name, &*script, &requests, request).await }
            }),
        ));
    }
}

async fn answer(
    name: &str,
    script: &(dyn Fn(&str, &ReceivedRequest) -> Reply + Send + Sync),
    requests: &Mutex<Vec<ReceivedRequest>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let one = ReceivedRequest {
        path: head.uri.to_string(),
        authorization: head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    requests.lock().unwrap().push(one.clone());
    match script(name, &one) {
        Reply::Json(status, body) => {
            let mut response = Response::new(Full::new(body.to_string().into()));
            *response.status_mut() = status;
            Ok(response)
        }
        Reply::Never => std::future::pending().await,
    }
}

/// The answer that confirms a drain attempt.
pub(crate) fn confirmed() -> Reply {
    Reply::Json(StatusCode::OK, json!({"confirmed": true}))
}

/// The answer that refuses one.
pub(crate) fn refused(reason: &str) -> Reply {
    Reply::Json(StatusCode::CONFLICT, json!({"confirmed": false, "reason": reason}))
}

/// The answer to a question for the activity.
pub(crate) fn activity(member: &str, resources: impl Iterator<Item = Value>) -> Value {
    json!({"member": member, "resources": resources.collect::<Vec<_>>()})
}

/// A resource without a request in the hour that it was counted.
pub(crate) fn idle(name: &str) -> Value {
    json!({
        "namespace": "demo", "name": name, "kind": KIND, "requests": 3, "in_flight": 0, "held": 0,
        "idle": "1h", "counted_for": "2h", "windows": {"10m": 0},
    })
}

/// The members of a state folder, queried with a token and this timeout.
pub(crate) fn members(state_dir: &Path, activity_timeout: Duration) -> Members {
    let activity_timeout = MemberTimeouts {
        activity: activity_timeout,
        drain: activity_timeout / 2,
        margin: activity_timeout / 2,
    };
    Members::new(
        Coordinator::Files(state_dir.to_owned()),
        Some("secret".into()),
        activity_timeout,
        AutoscalerMetrics::new(&mut Registry::default()),
    )
}

/// These DLXs take requests; the sender says when others do.
pub(crate) fn serving_dlxs(names: &[&str]) -> (watch::Sender<ReadyDlxs>, ServingDlxs) {
    let (sender, serving) = watch::channel(Some(named(names)));
    (
        sender,
        ServingDlxs {
            serving,
            propagation_delay: PROPAGATION_DELAY,
            unavailable_timeout: UNAVAILABLE_TIMEOUT,
        },
    )
}

/// DLXs of these names.
pub(crate) fn named(names: &[&str]) -> Arc<[scaler_types::Dlx]> {
    let dlx = |name: &&str| scaler_types::Dlx {
        name: (*name).to_owned(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        node: None,
        zone: None,
    };
    names.iter().map(dlx).collect()
}

/// DLXs take requests, and clients follow at once.
pub(crate) const SERVED: InterceptionConditions =
    InterceptionConditions { dlx_available: true, propagation_delay: Duration::ZERO };
/// How long clients may take to follow a change.
pub(crate) const PROPAGATION_DELAY: Duration = Duration::from_secs(30);
/// How long no DLX takes requests until the failover.
pub(crate) const UNAVAILABLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than any test lasts.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// How long an unreachable DLX is waited for.
pub(crate) const SHORT: Duration = Duration::from_millis(100);
