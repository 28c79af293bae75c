//! How many replicas a resource should have while it is awake: a pure function of its metrics, their targets and its limits.
//!
//! The number is absolute: for each metric with a target `ceil(value / target)`, of which the largest counts. The limits come after
//! that. What is not known never lowers the number.

mod worker_pod_autoscaler;

use std::{fmt, sync::Arc, time::Duration};

use daemon::settings::Compatibility;
use scaler_types::{Disruption, Scaling, duration::short};

use crate::telemetry::rounded;

/// How far the load may be from what the current replicas are for, as a part of that, before their number changes.
const TOLERANCE: f64 = 0.1;

/// Why workers with `seconds-per-message` keep their number.
const RATE_UNKNOWN: &str = "the number of arriving messages is unknown, which seconds-per-message needs; Redis lists and folders never show it: remove seconds-per-message for them";

/// What the number of replicas is decided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScalingInput<'a> {
    /// The targets and limits.
    pub(crate) scaling: &'a Scaling,
    /// The autoscaler whose arithmetic is asked for, if any.
    pub(crate) compatibility: Option<Compatibility>,
    /// The replicas that there are, those that start included.
    pub(crate) current: u32,
    /// The metrics with a target.
    pub(crate) loads: &'a [Load],
    /// Messages that arrive per minute; none: not known.
    pub(crate) arriving_per_minute: Option<f64>,
    /// Workers that wait for a message; none: not known.
    pub(crate) idle_consumers: Option<u64>,
    /// The time since its replicas were changed last; none: they never were, as far as is known.
    pub(crate) since_scaled: Option<Duration>,
}

/// A metric with a target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    /// Its name, for people.
    pub(crate) metric: Arc<str>,
    /// It counts what its name says, as in `95 messages`.
    pub(crate) is_count: bool,
    /// Its value, or the part of it that is known.
    pub(crate) value: f64,
    /// How much of it one replica is for.
    pub(crate) target: f64,
    /// Why the value, or a part of it, is not known now.
    pub(crate) unknown: Option<Arc<str>>,
    /// Why a part of it is never known, and what its users do about that.
    pub(crate) not_shown: Option<Arc<str>>,
    /// It wakes a resource that is asleep. Requests do that by themselves.
    pub(crate) wakes: bool,
}

/// How many replicas a resource should have, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredReplicas {
    /// So many; 0: it has nothing to do, which only a drain may act on.
    pub(crate) replicas: u32,
    /// The metric that decides; none: no value is known.
    pub(crate) by: Option<DecidingMetric>,
    /// Why not as many as the metric asks for.
    pub(crate) limit: Limit,
    /// A metric that wakes has work for a replica.
    pub(crate) has_work: bool,
}

/// The metric that asks for the most replicas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecidingMetric {
    /// Its name, for people.
    pub(crate) metric: Arc<str>,
    /// It counts what its name says.
    is_count: bool,
    /// How many replicas it asks for.
    wanted: u32,
    /// Its value.
    pub(crate) value: f64,
    /// How much of it one replica is for.
    pub(crate) target: f64,
}

/// Why a resource should have more or fewer replicas than its metrics ask for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Limit {
    /// It should have as many.
    None,
    /// The current number is close enough.
    Tolerance,
    /// The fewest while it is awake.
    Min(u32),
    /// The fewest that keep up with the messages that arrive.
    Throughput(u32),
    /// The most.
    Max(u32),
    /// What one step down may remove.
    Disruption(Disruption),
    /// Its replicas were changed a short time ago: a step down follows after this.
    Delay(Duration),
    /// A value that is not known might ask for more.
    Unknown(Arc<str>),
    /// A value that is never known might ask for more, unless its users change something.
    NotShown(Arc<str>),
    /// Its users have paused it.
    Paused,
}

/// How many replicas the resource should have.
pub(crate) fn desired_replicas(input: &ScalingInput<'_>) -> DesiredReplicas {
    let strongest = input.loads.iter().filter(|load| load.ratio().is_some());
    let strongest = strongest.max_by(|a, b| a.ratio().unwrap_or(0.0).total_cmp(&b.ratio().unwrap_or(0.0)));
    let (replicas, limit) = match input.compatibility {
        Some(Compatibility::WorkerPodAutoscaler) => worker_pod_autoscaler::decide(input, strongest),
        None => decide(input, strongest),
    };
    let (replicas, limit) = match input.current {
        current if input.scaling.paused && current > 0 && current != replicas => (current, Limit::Paused),
        _ => (replicas, limit),
    };
    let by = strongest.map(|load| DecidingMetric {
        metric: load.metric.clone(),
        is_count: load.is_count,
        wanted: load.replicas(),
        value: load.value,
        target: load.target,
    });
    let has_work = input.loads.iter().any(|load| load.wakes && load.replicas() > 0);
    DesiredReplicas { replicas, by, limit, has_work }
}

fn decide(input: &ScalingInput<'_>, strongest: Option<&Load>) -> (u32, Limit) {
    let ScalingInput { scaling, current, .. } = *input;
    let max = scaling.max_replicas;
    let asked = strongest.map_or(0, Load::replicas);
    if current == 0 && asked == 0 {
        return (0, Limit::None);
    }
    let throughput = throughput(input);
    let min = scaling.min_replicas.max(1);
    let (floor, floor_limit) = match throughput {
        Some(floor) if floor > min => (floor, Limit::Throughput(floor)),
        _ => (min, Limit::Min(min)),
    };
    let within_tolerance = current > 0
        && strongest.and_then(Load::ratio).is_some_and(|ratio| {
            let relative = ratio / f64::from(current);
            (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&relative)
        });
    let asked = if within_tolerance { current } else { asked };
    let (wanted, limit) = match asked {
        asked if asked.max(floor) > max => (max, Limit::Max(max)),
        asked if asked < floor => (floor, floor_limit),
        asked if within_tolerance => (asked, Limit::Tolerance),
        asked => (asked, Limit::None),
    };
    if wanted >= current {
        return (wanted, limit);
    }
    // Its users' limit holds at once, whatever is known of the load.
    let stays = current.min(max);
    if wanted == stays {
        return (wanted, limit);
    }
    if let Some(limit) = unknown(input) {
        return (stays, limit);
    }
    if throughput.is_none() {
        return (stays, Limit::Unknown(RATE_UNKNOWN.into()));
    }
    if let Some(limit) = delay(scaling, Some(input.since_scaled.unwrap_or_default())) {
        return (stays, limit);
    }
    let all_idle = input.loads.iter().all(|load| load.value <= 0.0)
        && input.idle_consumers.is_some_and(|idle| idle >= u64::from(current));
    let fewest = current.saturating_sub(removable(scaling.max_disruption, current));
    if all_idle || fewest <= wanted {
        (wanted, limit)
    } else {
        (fewest.min(stays), Limit::Disruption(scaling.max_disruption))
    }
}

/// The fewest replicas that keep up with the messages that arrive; none: how many arrive is not known, and matters.
fn throughput(input: &ScalingInput<'_>) -> Option<u32> {
    let Some(seconds) = input.scaling.seconds_per_message.filter(|seconds| *seconds > 0.0) else {
        return Some(0);
    };
    let rate = input.arriving_per_minute.filter(|rate| rate.is_finite() && *rate >= 0.0)?;
    Some(whole(seconds * rate / 60.0))
}

/// The value that might ask for more replicas, if there is one. One that is never known does so also when all others are known.
fn unknown(input: &ScalingInput<'_>) -> Option<Limit> {
    let unknown = || input.loads.iter().find_map(Load::why_unknown).map(Limit::Unknown);
    let not_shown = || input.loads.iter().find_map(|load| load.not_shown.clone()).map(Limit::NotShown);
    unknown().or_else(not_shown)
}

/// Why a step down has to wait, if so. `since_scaled`: none allows it.
fn delay(scaling: &Scaling, since_scaled: Option<Duration>) -> Option<Limit> {
    let left = scaling.scale_down_delay.checked_sub(since_scaled?)?;
    (!left.is_zero()).then_some(Limit::Delay(left))
}

/// How many replicas one step down may remove.
fn removable(disruption: Disruption, current: u32) -> u32 {
    match disruption {
        Disruption::Replicas(replicas) => replicas,
        Disruption::Percent(percent) => {
            let removable = (u64::from(percent) * u64::from(current)).div_ceil(100);
            u32::try_from(removable).unwrap_or(u32::MAX)
        }
    }
}

/// The next whole number of replicas.
fn whole(replicas: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no number counts as 0, and what is too large as the largest"
    )]
    let whole = replicas.ceil() as u32;
    whole
}

// === impl Load ===

impl Load {
    /// How many replicas it is for, not rounded; none: no usable value is known.
    fn ratio(&self) -> Option<f64> {
        let usable =
            self.value.is_finite() && self.value >= 0.0 && self.target.is_finite() && self.target > 0.0;
        usable.then(|| self.value / self.target)
    }

    /// How many replicas it asks for.
    fn replicas(&self) -> u32 {
        self.ratio().map_or(0, whole)
    }

    fn why_unknown(&self) -> Option<Arc<str>> {
        let Self { metric, value, target, .. } = self;
        match (&self.unknown, self.ratio()) {
            (Some(why), _) => Some(why.clone()),
            (None, None) => {
                Some(format!("{metric} is {value}, its target {target}: no usable number").into())
            }
            (None, Some(_)) => None,
        }
    }
}

// === impl Limit ===

impl Limit {
    /// In one word, for metrics and answers; stable.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tolerance => "tolerance",
            Self::Min(_) => "min_replicas",
            Self::Throughput(_) => "throughput",
            Self::Max(_) => "max_replicas",
            Self::Disruption(_) => "max_disruption",
            Self::Delay(_) => "scale_down_delay",
            Self::Unknown(_) => "unknown",
            Self::NotShown(_) => "not_shown",
            Self::Paused => "paused",
        }
    }
}

// === impl DecidingMetric ===

impl fmt::Display for DecidingMetric {
    /// `95 messages, 20 per replica: 5 replicas wanted`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metric, is_count, wanted, value, target } = self;
        let value = (value * 100.0).round() / 100.0;
        match is_count {
            true if value == 1.0 => write!(f, "1 {}, ", metric.replacen("messages", "message", 1))?,
            true => write!(f, "{value} {metric}, ")?,
            false => write!(f, "{metric} is {value}, ")?,
        }
        match *target == f64::MAX {
            true => f.write_str("one replica for any number")?,
            false => write!(f, "{target} per replica")?,
        }
        write!(f, ": {} wanted", count_replicas(*wanted))
    }
}

/// `1 replica`, `5 replicas`.
pub(crate) fn count_replicas(replicas: u32) -> String {
    format!("{replicas} {}", if replicas == 1 { "replica" } else { "replicas" })
}

// === impl DesiredReplicas ===

impl fmt::Display for DesiredReplicas {
    /// Why so many, and why not more or fewer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, by, limit, .. } = self;
        match by {
            Some(by) => by.fmt(f)?,
            None => f.write_str("no value of its metrics is known")?,
        }
        match limit {
            Limit::None => Ok(()),
            Limit::Tolerance => write!(f, "; stays at {replicas}, within the tolerance"),
            Limit::Min(1) => f.write_str("; raised to 1, the minimum while awake"),
            Limit::Min(min) => write!(f, "; raised to {min} by min-replicas"),
            Limit::Throughput(floor) => {
                write!(
                    f,
                    "; raised to {floor} by seconds-per-message, to keep up with the messages that arrive"
                )
            }
            Limit::Max(max) => write!(f, "; limited to {max} by max-replicas"),
            Limit::Disruption(Disruption::Replicas(most)) => {
                write!(f, "; {replicas} for now: max-disruption lets one step down remove {most}")
            }
            Limit::Disruption(Disruption::Percent(most)) => {
                write!(f, "; {replicas} for now: max-disruption lets one step down remove {most}%")
            }
            Limit::Delay(left) => {
                let left = short(rounded(*left));
                write!(f, "; stays at {replicas} for another {left} by scale-down-delay")
            }
            Limit::Unknown(why) | Limit::NotShown(why) => write!(f, "; stays at {replicas}: {why}"),
            Limit::Paused => write!(f, "; stays at {replicas} while it is paused"),
        }
    }
}

#[cfg(test)]
mod tests;
