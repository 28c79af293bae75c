//! The registered DLXs, and a client for their admin ports.

mod last_reports;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use daemon::{coordination::Coordinator, members::Member, token::Token};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use scaler_types::{Nonce, ResourceId, duration};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::telemetry::{AutoscalerMetrics, DlxLabels};
pub(crate) use last_reports::DlxLastReport;
use last_reports::LastReports;

/// The longest answer that is read: ten thousand resources take about 2.5 MB.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// How long DLXs are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberTimeouts {
    /// For the activity: a DLX that reports ten thousand resources takes some tens of milliseconds; one that takes a
    /// hundred times as long counts as unreachable.
    pub(crate) activity: Duration,
    /// How long a DLX may wait until it sees a drain: its view is behind the store by what the plugin's `changes`
    /// takes, at most the second of the default one.
    pub(crate) drain: Duration,
    /// How much longer than that its answer is waited for.
    pub(crate) margin: Duration,
}

/// The DLXs. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub(crate) struct Members(Arc<Shared>);

struct Shared {
    coordination: Coordinator,
    client: Client<HttpConnector, Full<Bytes>>,
    token: Option<Token>,
    timeouts: MemberTimeouts,
    metrics: AutoscalerMetrics,
    known: Mutex<Known>,
    /// As they were read last.
    live: watch::Sender<Vec<Member>>,
    last_reports: Mutex<LastReports>,
}

#[derive(Default)]
struct Known {
    /// Unreachable DLXs, and why.
    unreachable: BTreeMap<String, Unreachable>,
}

/// A DLX, as the admin port shows it.
#[derive(Debug, Serialize)]
pub(crate) struct DlxStatus {
    #[serde(flatten)]
    member: Member,
    /// Why it is unreachable, if it is.
    unreachable: Option<Arc<str>>,
}

/// A member that gave no usable answer, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable {
    /// What was wrong.
    pub(crate) reason: Arc<str>,
}

/// A DLX's answer to a drain attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainAnswer {
    /// It sees the nonce, nothing is in flight there, it holds what comes.
    Confirmed,
    /// It does not confirm, and why.
    Refused(String),
    /// No usable answer in time.
    Unreachable(Unreachable),
}

#[derive(Serialize)]
struct ConfirmationRequest<'a> {
    #[serde(flatten)]
    id: &'a ResourceId,
    kind: &'a str,
    nonce: Nonce,
    wait: String,
    /// The DLX it is meant for: another one may have the same address by now.
    member: &'a str,
}

#[derive(Deserialize)]
struct Confirmation {
    confirmed: bool,
    #[serde(default)]
    reason: String,
}

// === impl MemberTimeouts ===

impl Default for MemberTimeouts {
    fn default() -> Self {
        Self {
            activity: Duration::from_secs(5),
            drain: Duration::from_secs(2),
            margin: Duration::from_secs(1),
        }
    }
}

// === impl Members ===

impl Members {
    /// The DLXs that are known so. `token`: what is sent with a drain attempt's question.
    pub(crate) fn new(
        coordination: Coordinator,
        token: Option<Token>,
        timeouts: MemberTimeouts,
        metrics: AutoscalerMetrics,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // The admin server closes idle connections after 10 s.
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        let (known, live, last_reports) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        Self(Arc::new(Shared { coordination, client, token, timeouts, metrics, known, live, last_reports }))
    }

    /// Every live DLX, now.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub(crate) async fn read(&self) -> anyhow::Result<Vec<Member>> {
        let live = self.0.coordination.members().await?;
        self.forget_departed(&live);
        Ok(live)
    }

    /// Forgets all DLXs: this process is no longer the leader.
    pub(crate) fn forget_all(&self) {
        let known = std::mem::take(&mut *self.known());
        *self.last_reports() = LastReports::default();
        self.0.live.send_replace(Vec::new());
        for name in known.unreachable.into_keys() {
            self.0.metrics.dlx_unreachable.remove(&DlxLabels { dlx: name });
        }
    }

    /// The DLXs as they were read last, for people.
    pub(crate) fn statuses(&self) -> Vec<DlxStatus> {
        let known = self.known();
        let reason = |member: &Member| {
            known.unreachable.get(&member.name).map(|unreachable| unreachable.reason.clone())
        };
        let live = self.0.live.borrow();
        live.iter().map(|member| DlxStatus { member: member.clone(), unreachable: reason(member) }).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_reports(&self) -> MutexGuard<'_, LastReports> {
        self.0.last_reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `GET` on a member's admin address; the answer's body if it is 200.
    ///
    /// # Errors
    ///
    /// It did not answer, or not with 200.
    pub(crate) async fn get(&self, member: &Member, path_and_query: &str) -> Result<Bytes, Unreachable> {
        match self.send(member, Method::GET, path_and_query, Bytes::new(), self.0.timeouts.activity).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(unexpected_status(status, &body)),
        }
    }

    /// `POST /api/v1/load` on a member's admin address; the answer's body if it is 200.
    ///
    /// # Errors
    ///
    /// It did not answer, or not with 200.
    pub(crate) async fn load(&self, member: &Member, body: Bytes) -> Result<Bytes, Unreachable> {
        match self.send(member, Method::POST, "/api/v1/load", body, self.0.timeouts.activity).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(unexpected_status(status, &body)),
        }
    }

    /// Asks a member to confirm a drain attempt.
    pub(crate) async fn confirm(
        &self,
        member: &Member,
        kind: &str,
        id: &ResourceId,
        nonce: Nonce,
    ) -> DrainAnswer {
        let MemberTimeouts { drain, margin, .. } = self.0.timeouts;
        let question =
            ConfirmationRequest { id, kind, nonce, wait: duration::short(drain), member: &member.name };
        let body = match serde_json::to_vec(&question) {
            Ok(body) => body.into(),
            Err(error) => return DrainAnswer::Unreachable(Unreachable { reason: error.to_string().into() }),
        };
        let (status, body) =
            match self.send(member, Method::POST, "/api/v1/confirm-drain", body, drain + margin).await {
                Ok(answer) => answer,
                Err(unreachable) => return DrainAnswer::Unreachable(unreachable),
            };
        match (status, serde_json::from_slice::<Confirmation>(&body)) {
            (StatusCode::OK, Ok(Confirmation { confirmed: true, .. })) => DrainAnswer::Confirmed,
            (StatusCode::CONFLICT, Ok(Confirmation { confirmed: false, reason })) => {
                DrainAnswer::Refused(reason)
            }
            _ => DrainAnswer::Unreachable(unexpected_status(status, &body)),
        }
    }

    /// Notes whether a member answered, for the metric and the log.
    pub(crate) fn record_answer(&self, member: &str, unreachable: Option<&Unreachable>) {
        let known = &mut self.known().unreachable;
        match unreachable {
            Some(unreachable) => {
                self.0.metrics.dlx_unreachable.get_or_create(&DlxLabels { dlx: member.to_owned() }).set(1);
                if known.insert(member.to_owned(), unreachable.clone()).is_none() {
                    tracing::warn!(member, reason = %unreachable.reason, "DLX unreachable; keeping everything awake until it answers");
                }
            }
            None if known.remove(member).is_some() => {
                self.0.metrics.dlx_unreachable.remove(&DlxLabels { dlx: member.to_owned() });
                tracing::info!(member, "DLX reachable again");
            }
            None => {}
        }
    }

    /// Removes DLXs that left from the unreachable ones.
    fn forget_departed(&self, live: &[Member]) {
        self.0.live.send_if_modified(|known| {
            let differs = *known != live;
            live.clone_into(known);
            differs
        });
        let mut known = self.known();
        known.unreachable.retain(|name, _| {
            let lives = live.iter().any(|member| member.name == *name);
            if !lives {
                self.0.metrics.dlx_unreachable.remove(&DlxLabels { dlx: name.clone() });
                tracing::info!(member = name, "unreachable DLX left");
            }
            lives
        });
    }

    async fn send(
        &self,
        member: &Member,
        method: Method,
        path_and_query: &str,
        body: Bytes,
        timeouts: Duration,
    ) -> Result<(StatusCode, Bytes), Unreachable> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path_and_query}", member.admin))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.0.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.now()));
        }
        let exchange = async {
            let request = request.body(Full::new(body)).map_err(|error| unreachable(&error))?;
            let (head, body) =
                self.0.client.request(request).await.map_err(|error| unreachable(&error))?.into_parts();
            let body =
                Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| unreachable(&*error))?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(timeouts, exchange).await.unwrap_or_else(|_| {
            Err(Unreachable { reason: format!("no answer within {}", duration::short(timeouts)).into() })
        })
    }
}

fn unreachable(error: &dyn std::error::Error) -> Unreachable {
    Unreachable { reason: daemon::cluster::causes(error).into() }
}

fn unexpected_status(status: StatusCode, body: &[u8]) -> Unreachable {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    Unreachable { reason: format!("it answered {status}: {}", text.trim()).into() }
}

#[cfg(test)]
mod tests;
