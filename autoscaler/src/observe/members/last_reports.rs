//! The last reports of DLXs that stop: each DLX is asked for one as soon as it is registered, and answers after its last request.
//! Its counts are then not lost with it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use daemon::members::{Member, registered::Registered};
use http::{Method, StatusCode};
use scaler_types::duration;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use super::Members;

const PATH: &str = "/api/v1/last-activity";
/// The pause after a question that failed. A DLX that is done waits ten times as long.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long a question may wait for its answer. Then it is asked anew, on another connection: this one may be dead without
/// any notice.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The leader's knowledge of the DLXs that came and went.
#[derive(Debug, Default)]
pub(super) struct LastReports {
    /// By name.
    reports: HashMap<String, DlxLastReport>,
    /// All windows that anybody asked for.
    windows: watch::Sender<BTreeSet<Duration>>,
    /// All registrations.
    registered: Option<watch::Receiver<Registered>>,
}

/// A DLX's answer after its last request.
#[derive(Clone, Debug)]
pub(crate) struct DlxLastReport {
    /// When it came.
    pub(crate) at: Instant,
    /// The same as of any other activity.
    pub(crate) body: Bytes,
}

#[derive(Deserialize, Serialize)]
struct Name<'a> {
    #[serde(borrow)]
    member: std::borrow::Cow<'a, str>,
}

// === impl LastReports ===

impl LastReports {
    /// Adds windows that reports must cover.
    pub(super) fn add_windows(&self, windows: &BTreeSet<Duration>) {
        self.windows.send_if_modified(|known| {
            let more = !windows.is_subset(known);
            known.extend(windows);
            more
        });
    }

    /// Those that a window may still need, by name.
    pub(super) fn needed(&mut self) -> Vec<(String, DlxLastReport)> {
        let longest = self.windows.borrow().last().copied().unwrap_or_default();
        self.reports.retain(|_, report| report.at.elapsed() <= longest);
        self.reports.iter().map(|(name, report)| (name.clone(), report.clone())).collect()
    }

    /// All registrations since this process became the leader.
    pub(super) fn registered(&self) -> Registered {
        self.registered.as_ref().map(|registered| registered.borrow().clone()).unwrap_or_default()
    }
}

// === impl Members ===

impl Members {
    /// Requests a last report from each registered DLX, while this process is the leader. Never returns.
    pub(crate) async fn follow_last_reports(self, mut registered: watch::Receiver<Registered>) {
        self.last_reports().registered = Some(registered.clone());
        let mut live = self.0.live.subscribe();
        let mut requested: HashMap<Member, AbortHandle> = HashMap::new();
        let mut questions = JoinSet::new();
        // An error: the cycles read them, too.
        let _ = self.read().await;
        loop {
            let members: BTreeSet<_> = live.borrow_and_update().iter().cloned().collect();
            requested.retain(|member, question| {
                let lives = members.contains(member);
                if !lives {
                    question.abort();
                }
                lives
            });
            for member in members {
                requested
                    .entry(member.clone())
                    .or_insert_with(|| questions.spawn(self.clone().request_last_report(member)));
            }
            tokio::select! {
                changed = registered.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    let _ = self.read().await;
                }
                _ = live.changed() => {}
                Some(_) = questions.join_next() => {}
            }
        }
    }

    /// Asks until it has answered.
    async fn request_last_report(self, member: Member) {
        let mut windows = self.last_reports().windows.subscribe();
        loop {
            let query: Vec<_> = windows
                .borrow_and_update()
                .iter()
                .map(|window| format!("window={}", duration::short(*window)))
                .collect();
            let path = format!("{PATH}?{}", query.join("&"));
            let answer = tokio::select! {
                // An error: never, its sender is `self`'s.
                _ = windows.changed() => continue,
                answer = self.send(&member, Method::GET, &path, Bytes::new(), REQUEST_TIMEOUT) => answer,
            };
            match answer {
                Ok((StatusCode::OK, body)) if is_from(&body, &member) => {
                    let report = DlxLastReport { at: Instant::now(), body };
                    self.last_reports().reports.insert(member.name.clone(), report);
                    return self.acknowledge(&member).await;
                }
                // An earlier version: it leaves without one.
                Ok((StatusCode::NOT_FOUND, _)) => return,
                Ok(_) | Err(_) => {}
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "a question that failed is asked again after a pause"
            )]
            sleep(RETRY_DELAY).await;
        }
    }

    async fn acknowledge(&self, member: &Member) {
        let body = serde_json::to_vec(&Name { member: member.name.as_str().into() }).unwrap_or_default();
        let activity = self.0.timeouts.activity;
        match self.send(member, Method::POST, PATH, body.into(), activity).await {
            Ok((StatusCode::OK, _)) => {
                tracing::info!(member = member.name, "received the last report of a DLX")
            }
            // It waits a few seconds longer.
            Ok((status, _)) => {
                tracing::debug!(member = member.name, %status, "failed to acknowledge the last report of a DLX")
            }
            Err(error) => {
                tracing::debug!(member = member.name, reason = %error.reason, "failed to acknowledge the last report of a DLX")
            }
        }
    }

    /// All registrations since this process became the leader.
    pub(crate) fn registered(&self) -> Registered {
        self.last_reports().registered()
    }

    /// The last reports that a window may still need, and these windows are wanted from now on.
    pub(crate) fn last_reports_for(&self, windows: &BTreeSet<Duration>) -> Vec<(Arc<str>, DlxLastReport)> {
        let mut reports = self.last_reports();
        reports.add_windows(windows);
        reports.needed().into_iter().map(|(name, report)| (name.into(), report)).collect()
    }
}

fn is_from(body: &[u8], member: &Member) -> bool {
    serde_json::from_slice::<Name<'_>>(body).is_ok_and(|name| *name.member == member.name)
}
