//! What all queues of a resource hold together.

use std::sync::Arc;

use scaler_types::Scaling;
use tokio::time::Instant;

use super::RuleContext;
use crate::observe::{queues::QueueHistory, work::SHOW_IN_FLIGHT};

/// What all queues of a resource hold together.
pub(super) struct QueueTotals {
    /// Waiting and in flight, as far as is known.
    pub(super) messages: f64,
    pub(super) arriving_per_minute: Option<f64>,
    pub(super) idle_consumers: Option<u64>,
    /// Why that is not all.
    pub(super) unknown: Option<Arc<str>>,
    /// Why that is never all, and what its users do about that.
    pub(super) not_shown: Option<Arc<str>>,
}

/// Adds up what its queues hold.
pub(super) fn queue_totals(scaling: &Scaling, context: RuleContext<'_>) -> QueueTotals {
    let (arriving_per_minute, idle_consumers) = (Some(0.0), Some(0));
    let mut totals =
        QueueTotals { messages: 0.0, arriving_per_minute, idle_consumers, unknown: None, not_shown: None };
    for queue in &scaling.queues {
        let history = context.queues.get(queue);
        let reading = match history.map(|history| history.reading(context.now)) {
            Some(Ok(reading)) => reading,
            other => {
                let why = other.and_then(Result::err).unwrap_or_else(|| "it has not been read yet".into());
                totals.unknown.get_or_insert_with(|| format!("cannot read {queue}: {why}").into());
                (totals.arriving_per_minute, totals.idle_consumers) = (None, None);
                continue;
            }
        };
        let messages = reading.waiting.unwrap_or(0).saturating_add(reading.in_flight.unwrap_or(0));
        #[expect(clippy::cast_precision_loss, reason = "to the nearest of 2^53 is exact enough")]
        let messages = messages as f64;
        totals.messages += messages;
        if reading.waiting.is_none() {
            let why = || format!("the broker of {queue} does not say what waits in it").into();
            totals.unknown.get_or_insert_with(why);
        } else if !history.is_some_and(|history| shows_work(scaling, history, context.now)) {
            totals.not_shown.get_or_insert_with(|| format!("{queue}: {SHOW_IN_FLIGHT}").into());
        }
        let add = |total: f64| Some(total + reading.arriving_per_minute?);
        totals.arriving_per_minute = totals.arriving_per_minute.and_then(add);
        let add = |total: u64| Some(total.saturating_add(reading.idle_consumers?));
        totals.idle_consumers = totals.idle_consumers.and_then(add);
    }
    totals
}

/// Whether it can be known that the workers of a queue are done.
pub(super) fn shows_work(scaling: &Scaling, history: &QueueHistory, now: Instant) -> bool {
    scaling.has_busy_probe
        || scaling.early_ack
        || history.reading(now).is_ok_and(|reading| reading.in_flight.is_some())
}
