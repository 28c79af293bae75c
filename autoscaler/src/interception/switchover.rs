//! The middle of an attempt on a resource intercepted only while asleep: its Service is switched to the DLXs, and its activity sampled after everybody has
//! followed. Until then requests pass no DLX that could have counted them.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use scaler_types::{Nonce, Resource, ScaleResource, duration::short};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{InterceptionTable, PendingSwitchover, ServingDlxs, SwitchoverProgress};
use crate::observe::{Activity, ActivitySource, effective_metrics, members::Members};

/// How long the switch may take to be written and seen, beside the propagation delay.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a switch needs.
#[derive(Clone)]
pub(crate) struct Switchover {
    /// Where attempts wait for the interceptor.
    pub(crate) interceptions: InterceptionTable,
    /// The ready DLXs, and the delays of interception.
    pub(crate) dlxs: ServingDlxs,
    /// The metric source to sample.
    pub(crate) source: ActivitySource,
    /// What holds for it.
    pub(crate) settings: Arc<Settings>,
    /// The namespace file's namespace.
    pub(crate) namespace: String,
}

/// Why a resource was not sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SwitchoverError {
    /// The process is to end.
    Stopping,
    /// Its record changed meanwhile.
    Changed,
    /// Its Service could not be switched, and why.
    NotIntercepted(Arc<str>),
    /// The metric source has no window that short.
    NoShortWindow,
}

// === impl Switchover ===

impl Switchover {
    /// Waits until `resource` has been intercepted for the propagation delay, and samples its activity since then: the
    /// metrics, and their readings. `attempt_nonce`: the nonce of the attempt that every DLX has confirmed.
    pub(crate) async fn sample_once_intercepted(
        &self,
        kind: &str,
        members: &Members,
        resource: &Resource,
        attempt_nonce: Nonce,
        stop: &CancellationToken,
    ) -> Result<(Vec<ScaleResource>, Activity), SwitchoverError> {
        let mut confirmed =
            self.interceptions.begin_switchover(&resource.id, resource.record.nonce, attempt_nonce);
        let limit = self.dlxs.propagation_delay + WRITE_TIMEOUT;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(SwitchoverError::Stopping),
            progress = confirmed.settled() => check_progress(progress)?,
            () = sleep_for(limit) => {
                return Err(SwitchoverError::NotIntercepted(format!("not within {}", short(limit)).into()));
            }
        }
        // What is lost counts, also if both come at once.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(SwitchoverError::Stopping),
            error = wait_until_lost(&mut confirmed) => Err(error),
            sampled = self.sample_now(kind, members, resource) => sampled,
        }
    }

    /// Asks for what was since now, when there is enough of it.
    async fn sample_now(
        &self,
        kind: &str,
        members: &Members,
        resource: &Resource,
    ) -> Result<(Vec<ScaleResource>, Activity), SwitchoverError> {
        let window = self.source.shortest_window().ok_or(SwitchoverError::NoShortWindow)?;
        let metrics: Vec<_> = effective_metrics(resource, &self.settings)
            .iter()
            .map(|metric| scale_to_window(metric, window))
            .collect();
        // The window lies wholly after this moment.
        sleep_for(window).await;
        let listed = [Resource { scale_resources: metrics.clone(), ..resource.clone() }];
        let activity = self.source.query(members, kind, &self.namespace, &listed, &self.settings).await;
        Ok((metrics, activity))
    }
}

/// The same metric of another window; its threshold as much smaller as the window, and never larger.
fn scale_to_window(metric: &ScaleResource, window: Duration) -> ScaleResource {
    let share = (window.as_secs_f64() / metric.window_size.as_secs_f64()).min(1.0);
    ScaleResource { window_size: window, threshold: metric.threshold * share, ..metric.clone() }
}

fn check_progress(progress: SwitchoverProgress) -> Result<(), SwitchoverError> {
    match progress {
        SwitchoverProgress::Intercepted => Ok(()),
        SwitchoverProgress::Changed => Err(SwitchoverError::Changed),
        SwitchoverProgress::Waiting => {
            Err(SwitchoverError::NotIntercepted("its record changed meanwhile".into()))
        }
        SwitchoverProgress::Lost(why) => Err(SwitchoverError::NotIntercepted(why)),
    }
}

/// Waits until it is no longer intercepted; returns why.
async fn wait_until_lost(confirmed: &mut PendingSwitchover) -> SwitchoverError {
    let progress = confirmed.lost().await;
    check_progress(progress).err().unwrap_or(SwitchoverError::Changed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "idle is what nothing happened to for a while, and a switch may not take for ever"
)]
async fn sleep_for(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_of_its_window() {
        let metric = |window: u64, threshold| ScaleResource {
            metric_name: "requests".to_owned(),
            window_size: Duration::from_secs(window),
            threshold,
        };
        assert_eq!(scale_to_window(&metric(600, 10.0), Duration::from_secs(60)), metric(60, 1.0));
        assert_eq!(scale_to_window(&metric(600, 0.0), Duration::from_secs(60)), metric(60, 0.0));
        // A longer one is allowed no more.
        assert_eq!(scale_to_window(&metric(30, 10.0), Duration::from_secs(60)), metric(60, 10.0));
    }
}
