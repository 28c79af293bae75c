//! The middle of a try on path direct: its route is switched to the DLXs, and the resource seen idle once more after everybody has
//! followed. Until then requests pass no DLX that could have counted them.

use std::{sync::Arc, time::Duration};

use daemon::settings::Settings;
use scaler_types::{Nonce, Resource, ScaleResource, duration::short};
use tokio::time::{Instant, sleep_until};

use super::{Try, Why};
use crate::{
    decide::{Evidence, Measure, RouteFacts, still_idle},
    memory,
    metrics::MetricSource,
    plugin::Plugin,
    router::{Confirmation, Leading, Progress, Routes},
};

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

// === impl Switch ===

impl Switch {
    /// Waits until everything for `resource` has been led to the DLXs for the grace, and looks at it once more. `fence`: the
    /// nonce of the fence that every DLX has confirmed.
    pub(super) async fn seen_idle<P: Plugin>(
        &self,
        one: &Try<P>,
        resource: &Resource,
        fence: Nonce,
    ) -> Result<(), Why> {
        let mut confirmed = self.routes.confirm(&resource.id, resource.row.nonce, fence);
        let limit = self.leading.grace + WITHIN;
        tokio::select! {
            biased;
            () = one.stop.cancelled() => return Err(Why::Stopping),
            progress = confirmed.settled() => led(progress)?,
            () = after(limit) => {
                return Err(Why::NotSwitched(format!("not within {}", short(limit)).into()));
            }
        }
        // What is lost counts, also if both come at once.
        let sampled = tokio::select! {
            biased;
            () = one.stop.cancelled() => return Err(Why::Stopping),
            why = lost(&mut confirmed) => return Err(why),
            sampled = self.sample(one, resource) => sampled,
        };
        sampled.map_err(Why::NotIdle)
    }

    /// Asks for what was since now, when there is enough of it.
    async fn sample<P: Plugin>(&self, one: &Try<P>, resource: &Resource) -> Result<(), String> {
        let window = self.source.shortest().ok_or("its metric source tells nothing of so short a time")?;
        let metrics: Vec<_> =
            memory::metrics(resource, &self.settings).iter().map(|metric| within(metric, window)).collect();
        // The window lies wholly after this moment.
        after(window).await;
        let listed = [Resource { scale_resources: metrics.clone(), ..resource.clone() }];
        let (kind, settings) = (one.plugin.kind(), &self.settings);
        let activity = self.source.ask(&one.members, kind, &self.namespace, &listed, settings).await;
        let nothing = (Vec::new(), Vec::new());
        let samples = activity.samples.first().unwrap_or(&nothing.0);
        let readings = activity.readings.iter().flatten().next().unwrap_or(&nothing.1);
        let routes = RouteFacts { served: self.leading.served(), grace: self.leading.grace };
        let measure = Measure::Readings(readings);
        let evidence = Evidence { source: &activity.source, samples, measure, routes };
        still_idle(&metrics, evidence).map_err(|reason| reason.to_string())
    }
}

/// The same metric of another window; its threshold as much smaller as the window, and never larger.
fn within(metric: &ScaleResource, window: Duration) -> ScaleResource {
    let share = (window.as_secs_f64() / metric.window_size.as_secs_f64()).min(1.0);
    ScaleResource { window_size: window, threshold: metric.threshold * share, ..metric.clone() }
}

fn led(progress: Progress) -> Result<(), Why> {
    match progress {
        Progress::Led => Ok(()),
        Progress::Changed => Err(Why::Changed),
        Progress::Waiting => Err(Why::NotSwitched("somebody else changed it meanwhile".into())),
        Progress::Lost(why) => Err(Why::NotSwitched(why)),
    }
}

/// Waits until the route leads to the DLXs no more; why.
async fn lost(confirmed: &mut Confirmation) -> Why {
    let progress = confirmed.lost().await;
    led(progress).err().unwrap_or(Why::Changed)
}

#[expect(
    clippy::disallowed_methods,
    reason = "idle is what nothing happened to for a while, and a switch may not take for ever"
)]
async fn after(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

#[cfg(test)]
mod tests;
