//! The arithmetic of Worker Pod Autoscaler, for workloads that were tuned to it.
//!
//! It differs from the default in these: the tolerance compares whole replicas, so that it has no effect below ten of them; messages that
//! arrive, and the fewest replicas, count without any message that waits; all workers are idle only where exactly as many wait as there
//! are; one that was never scaled may be scaled down at once; a rate that is not known counts as none.

use super::{Limit, Load, ScalingInput, TOLERANCE, delay, removable, throughput, unknown};

/// The replicas that it wants, and what limits them.
pub(super) fn decide(input: &ScalingInput<'_>, strongest: Option<&Load>) -> (u32, Limit) {
    let ScalingInput { scaling, current, .. } = *input;
    let max = scaling.max_replicas;
    let floor = scaling.min_replicas.max(throughput(input).unwrap_or(0));
    let asked = strongest.map_or(0, Load::replicas);
    let budget = removable(scaling.max_disruption, current);
    let has_messages = input.loads.iter().any(|load| load.value > 0.0);
    let arriving = scaling.seconds_per_message.is_some_and(|seconds| seconds > 0.0)
        && input.arriving_per_minute.is_some_and(|rate| rate > 0.0);
    let (wanted, budget, limit) = match current {
        0 => (asked, budget, Limit::None),
        _ if has_messages && is_close(asked, current) => (current, budget, Limit::Tolerance),
        _ if has_messages => (asked, budget, Limit::None),
        _ if !arriving && input.idle_consumers == Some(u64::from(current)) => (0, current, Limit::None),
        _ => (floor, budget, Limit::None),
    };
    let (wanted, limit) = match wanted {
        wanted if current.saturating_sub(wanted) > budget => {
            (current - budget, Limit::Disruption(scaling.max_disruption))
        }
        wanted => (wanted, limit),
    };
    let (wanted, limit) = match wanted {
        wanted if wanted.max(floor) > max || floor == max => (max, Limit::Max(max)),
        wanted if wanted < floor && floor > scaling.min_replicas => (floor, Limit::Throughput(floor)),
        wanted if wanted < floor => (floor, Limit::Min(floor)),
        wanted => (wanted, limit),
    };
    if wanted >= current {
        return (wanted, limit);
    }
    if let Some(limit) = unknown(input) {
        return (current, limit);
    }
    match delay(scaling, input.since_scaled) {
        Some(limit) => (current, limit),
        None => (wanted, limit),
    }
}

fn is_close(asked: u32, current: u32) -> bool {
    f64::from(asked.abs_diff(current)) / f64::from(current) <= TOLERANCE
}
