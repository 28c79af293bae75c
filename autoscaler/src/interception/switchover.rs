//! The middle of a try in traffic mode `when-asleep`: its route is switched to the DLXs, and the resource seen idle once more after everybody has
//! followed. Until then requests pass no DLX that could have counted them.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use scaler_types::{Nonce, Resource, ScaleResource, duration::short};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{InterceptionTable, PendingSwitchover, ServingDlxs, SwitchoverProgress};
use crate::observe::{Activity, MetricSource, effective_metrics, members::Members};

/// How long the route may take to be written and seen, beside the grace.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a switch needs.
#[derive(Clone)]
pub struct Switchover {
    /// Where the router is told.
    pub interceptions: InterceptionTable,
    /// What routes are led by.
    pub dlxs: ServingDlxs,
    /// Who says how busy the resource is.
    pub source: MetricSource,
    /// What holds for it.
    pub settings: Arc<Settings>,
    /// The namespace file's namespace.
    pub namespace: String,
}

/// Why a resource was not sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchoverError {
    /// The process is to end.
    Stopping,
    /// Somebody else changed the resource meanwhile.
    Changed,
    /// Its route could not be switched, and why.
    NotIntercepted(Arc<str>),
    /// The metric source tells nothing of so short a time.
    NoShortWindow,
}

// === impl Switchover ===

impl Switchover {
    /// Waits until everything for `resource` has been led to the DLXs for the grace, and asks how busy it was since then: the
    /// metrics that were asked for, and what was told. `fence`: the nonce of the fence that every DLX has confirmed.
    pub async fn sample_once_intercepted(
        &self,
        kind: &str,
        members: &Members,
        resource: &Resource,
        fence: Nonce,
        stop: &CancellationToken,
    ) -> Result<(Vec<ScaleResource>, Activity), SwitchoverError> {
        let mut confirmed = self.interceptions.begin_switchover(&resource.id, resource.record.nonce, fence);
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

/// Waits until the route leads to the DLXs no more; why.
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
