//! How many replicas a resource gets while it is awake, as its users set it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{duration, tolerant};

/// The targets and limits by which the autoscaler chooses a resource's replicas: for each metric with a target
/// `ceil(value / target)`, the largest counts, within the limits. A resource without any target keeps the replicas that others
/// give it: Scaler only scales it to zero and wakes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The fewest replicas while it is awake; 0 counts as 1. It may be scaled to zero all the same.
    #[serde(default)]
    pub min_replicas: u32,
    /// The most replicas; takes precedence over `min_replicas`. 0: it is never woken by a metric.
    pub max_replicas: u32,
    /// URIs of the queues that its workers read: `beanstalkd://broker:11300/mails`. Their messages are added up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<String>,
    /// How many messages, waiting and in flight, one replica is for.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub messages_per_replica: Option<f64>,
    /// How many seconds one replica takes for a message: the replicas that keep up with the arriving messages are the fewest.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub seconds_per_message: Option<f64>,
    /// How many HTTP requests in flight one replica is for, on average over the metric's window.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub in_flight_per_replica: Option<f64>,
    /// How many HTTP requests per second one replica is for.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub requests_per_replica: Option<f64>,
    /// Other metrics of the namespace file's source, each with its target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<ScalingMetric>,
    /// How many replicas one step down may remove.
    #[serde(default, deserialize_with = "tolerant::or_default")]
    pub max_disruption: Disruption,
    /// How long after the last scale in either direction a step down may follow; five minutes unless set.
    #[serde(default = "scale_down_delay", with = "duration::go")]
    pub scale_down_delay: Duration,
    /// When its replicas were last changed, in seconds since 1970 by the clock of the process that did it. None, or later than
    /// now: it counts as now.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub last_scaled: Option<u64>,
    /// Its plugin probes each replica before one is removed, and removes no busy one while another is idle.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_busy_probe: bool,
    /// Its users accept that a queue whose source does not show work in progress counts as idle once nothing waits in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub early_ack: bool,
    /// Its users have paused it: it is woken, and its number of replicas does not change otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// A metric of the namespace file's source with a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScalingMetric {
    /// The metric's name, e.g. `lag`.
    pub metric_name: String,
    /// How far back it counts.
    #[serde(with = "duration::go")]
    pub window_size: Duration,
    /// How much of it one replica is for; above 0.
    pub target_per_replica: f64,
}

/// How many replicas one step down may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disruption {
    /// So many.
    Replicas(u32),
    /// So many percent of the replicas that there are, rounded up.
    Percent(u32),
}

impl Scaling {
    /// Between 1 and these replicas, without any target.
    pub fn up_to(max_replicas: u32) -> Self {
        Self {
            min_replicas: 0,
            max_replicas,
            queues: Vec::new(),
            messages_per_replica: None,
            seconds_per_message: None,
            in_flight_per_replica: None,
            requests_per_replica: None,
            metrics: Vec::new(),
            max_disruption: Disruption::default(),
            scale_down_delay: scale_down_delay(),
            last_scaled: None,
            has_busy_probe: false,
            early_ack: false,
            paused: false,
        }
    }

    /// Whether it works on queues or metrics, which say whether it is idle.
    pub fn has_work(&self) -> bool {
        !(self.queues.is_empty() && self.metrics.is_empty())
    }

    /// How many replicas a wake by a request asks for.
    pub fn replicas_for_request(&self) -> u32 {
        self.min_replicas.min(self.max_replicas).max(1)
    }
}

impl Default for Disruption {
    fn default() -> Self {
        Self::Percent(100)
    }
}

fn scale_down_delay() -> Duration {
    Duration::from_secs(300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wakes_the_fewest_replicas_and_one_at_least() {
        for (min_replicas, max_replicas, expected) in [(0, 5, 1), (3, 5, 3), (5, 2, 2), (3, 0, 1)] {
            let scaling = Scaling { min_replicas, ..Scaling::up_to(max_replicas) };
            assert_eq!(scaling.replicas_for_request(), expected, "{min_replicas} to {max_replicas}");
        }
    }
}
