//! The middle of a try on path direct: its route is switched to the DLXs, and the resource seen idle once more after everybody has
//! followed. Until then requests pass no DLX that could have counted them.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use scaler_types::{Nonce, Resource, ScaleResource, duration::short};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Confirmation, Leading, Progress, Routes};
use crate::observe::{Activity, MetricSource, members::Members, metrics};

/// How long the route may take to be written and seen, beside the grace.
const WITHIN: Duration = Duration::from_secs(60);

/// What a switch needs.
#[derive(Clone)]
pub struct Switch {
    /// Where the router is told.
    pub routes: Routes,
    /// What routes are led by.
    pub leading: Leading,
    /// Who says how busy the resource is.
    pub source: MetricSource,
    /// What holds for it.
    pub settings: Arc<Settings>,
    /// The namespace file's namespace.
    pub namespace: String,
}

/// Why a resource was not sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchError {
    /// The process is to end.
    Stopping,
    /// Somebody else changed the resource meanwhile.
    Changed,
    /// Its route could not be switched, and why.
    NotSwitched(Arc<str>),
    /// The metric source tells nothing of so short a time.
    NoShortWindow,
}

// === impl Switch ===

impl Switch {
    /// Waits until everything for `resource` has been led to the DLXs for the grace, and asks how busy it was since then: the
    /// metrics that were asked for, and what was told. `fence`: the nonce of the fence that every DLX has confirmed.
    pub async fn sample(
        &self,
        kind: &str,
        members: &Members,
        resource: &Resource,
        fence: Nonce,
        stop: &CancellationToken,
    ) -> Result<(Vec<ScaleResource>, Activity), SwitchError> {
        let mut confirmed = self.routes.confirm(&resource.id, resource.row.nonce, fence);
        let limit = self.leading.grace + WITHIN;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(SwitchError::Stopping),
            progress = confirmed.settled() => led(progress)?,
            () = after(limit) => {
                return Err(SwitchError::NotSwitched(format!("not within {}", short(limit)).into()));
            }
        }
        // What is lost counts, also if both come at once.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(SwitchError::Stopping),
            error = lost(&mut confirmed) => Err(error),
            sampled = self.sample_now(kind, members, resource) => sampled,
        }
    }

    /// Asks for what was since now, when there is enough of it.
    async fn sample_now(
        &self,
        kind: &str,
        members: &Members,
        resource: &Resource,
    ) -> Result<(Vec<ScaleResource>, Activity), SwitchError> {
        let window = self.source.shortest().ok_or(SwitchError::NoShortWindow)?;
        let metrics: Vec<_> =
            metrics(resource, &self.settings).iter().map(|metric| within(metric, window)).collect();
        // The window lies wholly after this moment.
        after(window).await;
        let listed = [Resource { scale_resources: metrics.clone(), ..resource.clone() }];
        let activity = self.source.ask(members, kind, &self.namespace, &listed, &self.settings).await;
        Ok((metrics, activity))
    }
}

/// The same metric of another window; its threshold as much smaller as the window, and never larger.
fn within(metric: &ScaleResource, window: Duration) -> ScaleResource {
    let share = (window.as_secs_f64() / metric.window_size.as_secs_f64()).min(1.0);
    ScaleResource { window_size: window, threshold: metric.threshold * share, ..metric.clone() }
}

fn led(progress: Progress) -> Result<(), SwitchError> {
    match progress {
        Progress::Led => Ok(()),
        Progress::Changed => Err(SwitchError::Changed),
        Progress::Waiting => Err(SwitchError::NotSwitched("somebody else changed it meanwhile".into())),
        Progress::Lost(why) => Err(SwitchError::NotSwitched(why)),
    }
}

/// Waits until the route leads to the DLXs no more; why.
async fn lost(confirmed: &mut Confirmation) -> SwitchError {
    let progress = confirmed.lost().await;
    led(progress).err().unwrap_or(SwitchError::Changed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "idle is what nothing happened to for a while, and a switch may not take for ever"
)]
async fn after(time: Duration) {
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
        assert_eq!(within(&metric(600, 10.0), Duration::from_secs(60)), metric(60, 1.0));
        assert_eq!(within(&metric(600, 0.0), Duration::from_secs(60)), metric(60, 0.0));
        // A longer one is allowed no more.
        assert_eq!(within(&metric(30, 10.0), Duration::from_secs(60)), metric(60, 10.0));
    }
}
