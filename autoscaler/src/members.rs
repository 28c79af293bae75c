//! The DLXs: who they are, and how they are asked.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use daemon::members::Member;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use scaler_types::{Nonce, ResourceId, duration};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::telemetry::{MemberLabels, Metrics};

/// The longest answer that is read: ten thousand resources take about 2.5 MB.
const MAX_ANSWER: usize = 256 << 20;

/// How long DLXs are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the activity: a DLX that tells of ten thousand resources takes some tens of milliseconds; one that takes a
    /// hundred times as long is taken for silent.
    pub activity: Duration,
    /// How long a DLX may wait until it sees a fence: its view is behind the store by what the plugin's `changes`
    /// takes, at most the second of the default one.
    pub fence: Duration,
    /// How much longer than that its answer is waited for.
    pub margin: Duration,
}

/// The DLXs of a state folder. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Members(Arc<Shared>);

struct Shared {
    state_dir: PathBuf,
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
    patience: Patience,
    metrics: Metrics,
    silent: Mutex<BTreeSet<String>>,
}

/// A member that gave no usable answer, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// What was wrong.
    pub reason: Arc<str>,
}

/// What a DLX says to a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It sees the nonce, nothing is in flight there, it holds what comes.
    Confirmed,
    /// It does not confirm, and why.
    Refused(String),
    /// No usable answer in time.
    Silent(Silent),
}

#[derive(Serialize)]
struct Question<'a> {
    #[serde(flatten)]
    id: &'a ResourceId,
    kind: &'a str,
    nonce: Nonce,
    wait: String,
    /// Whom it is meant for: behind the same address there may be another incarnation by now.
    member: &'a str,
}

#[derive(Deserialize)]
struct Confirmation {
    confirmed: bool,
    #[serde(default)]
    reason: String,
}

// === impl Patience ===

impl Default for Patience {
    fn default() -> Self {
        Self {
            activity: Duration::from_secs(5),
            fence: Duration::from_secs(2),
            margin: Duration::from_secs(1),
        }
    }
}

// === impl Members ===

impl Members {
    /// The DLXs of a state folder. `token`: what is sent with a fence's question.
    ///
    /// # Errors
    ///
    /// The token cannot be sent in a header.
    pub fn new(
        state_dir: PathBuf,
        token: Option<&str>,
        patience: Patience,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let authorization = token
            .map(|token| HeaderValue::try_from(format!("Bearer {token}")))
            .transpose()
            .map_err(|_| {
            anyhow::anyhow!("the admin token cannot be sent in a header: use visible ASCII characters only")
        })?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // The admin server closes idle connections after 10 s.
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        let silent = Mutex::default();
        Ok(Self(Arc::new(Shared { state_dir, client, authorization, patience, metrics, silent })))
    }

    /// Every live DLX, now.
    ///
    /// # Errors
    ///
    /// They cannot be told.
    pub async fn live(&self) -> io::Result<Vec<Member>> {
        let shared = self.0.clone();
        let live = tokio::task::spawn_blocking(move || daemon::members::read(&shared.state_dir)).await??;
        self.forget_others(&live);
        Ok(live)
    }

    /// `GET` on a member's admin address; the answer's body if it is 200.
    ///
    /// # Errors
    ///
    /// It did not answer, or not with 200.
    pub async fn get(&self, member: &Member, path_and_query: &str) -> Result<Bytes, Silent> {
        match self.send(member, Method::GET, path_and_query, Bytes::new(), self.0.patience.activity).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(unexpected(status, &body)),
        }
    }

    /// Asks a member to confirm a fence.
    pub async fn confirm(&self, member: &Member, kind: &str, id: &ResourceId, nonce: Nonce) -> Answer {
        let Patience { fence, margin, .. } = self.0.patience;
        let question = Question { id, kind, nonce, wait: duration::short(fence), member: &member.name };
        let body = match serde_json::to_vec(&question) {
            Ok(body) => body.into(),
            Err(error) => return Answer::Silent(Silent { reason: error.to_string().into() }),
        };
        let (status, body) =
            match self.send(member, Method::POST, "/api/v1/fence", body, fence + margin).await {
                Ok(answer) => answer,
                Err(silent) => return Answer::Silent(silent),
            };
        match (status, serde_json::from_slice::<Confirmation>(&body)) {
            (StatusCode::OK, Ok(Confirmation { confirmed: true, .. })) => Answer::Confirmed,
            (StatusCode::CONFLICT, Ok(Confirmation { confirmed: false, reason })) => Answer::Refused(reason),
            _ => Answer::Silent(unexpected(status, &body)),
        }
    }

    /// Notes whether a member answered, for the metric and the log.
    pub fn heard(&self, member: &str, silent: Option<&Silent>) {
        let mut known = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match silent {
            Some(silent) => {
                self.0
                    .metrics
                    .member_silent
                    .get_or_create(&MemberLabels { member: member.to_owned() })
                    .set(1);
                if known.insert(member.to_owned()) {
                    tracing::warn!(member, reason = %silent.reason, "a live DLX does not answer: everything is kept awake until it does");
                }
            }
            None if known.remove(member) => {
                self.0.metrics.member_silent.remove(&MemberLabels { member: member.to_owned() });
                tracing::info!(member, "the DLX answers again");
            }
            None => {}
        }
    }

    /// Members that left are silent no more.
    fn forget_others(&self, live: &[Member]) {
        let mut known = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name| {
            let lives = live.iter().any(|member| member.name == *name);
            if !lives {
                self.0.metrics.member_silent.remove(&MemberLabels { member: name.clone() });
                tracing::info!(member = name, "the DLX that did not answer is gone");
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
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), Silent> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path_and_query}", member.admin))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.0.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let exchange = async {
            let request = request.body(Full::new(body)).map_err(|error| silent(&error))?;
            let (head, body) =
                self.0.client.request(request).await.map_err(|error| silent(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| silent(&*error))?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(patience, exchange).await.unwrap_or_else(|_| {
            Err(Silent { reason: format!("no answer within {}", duration::short(patience)).into() })
        })
    }
}

/// An error with its causes: hyper's own text alone says little.
fn silent(error: &dyn std::error::Error) -> Silent {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason += &format!(": {error}");
        cause = error.source();
    }
    Silent { reason: reason.into() }
}

fn unexpected(status: StatusCode, body: &[u8]) -> Silent {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    Silent { reason: format!("it answered {status}: {}", text.trim()).into() }
}

#[cfg(test)]
mod tests;
