//! `POST /api/v1/sleep`: attempts to scale a resource to zero now, whatever its windows say, and answers with the outcome.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bytes::Bytes;
use daemon::admin::{Handler, json, refuse};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use scaler_types::ResourceId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{AdminView, CycleView};
use crate::{
    cycle::{SleepOutcome, SleepRequest},
    drain::DrainOutcome,
};

#[derive(Deserialize)]
struct SleepBody {
    #[serde(flatten)]
    id: ResourceId,
    /// Needed where two kinds have a resource of that name.
    kind: Option<String>,
}

#[derive(Serialize)]
struct SleepAnswer {
    asleep: bool,
    /// `committed`, `reverted`, `failed`, `already_asleep` or `kept_awake`.
    outcome: &'static str,
    reason: String,
}

impl AdminView {
    /// `POST /api/v1/sleep` with `{"namespace","name","kind"?}`: 200 if it is scaled to zero now, else 409.
    pub(crate) fn sleep(&self) -> Handler {
        let view = self.clone();
        Arc::new(move |request: Request<Bytes>| {
            let view = view.clone();
            Box::pin(async move { view.put_to_sleep(&request).await })
        })
    }

    async fn put_to_sleep(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        let SleepBody { id, kind } = match serde_json::from_slice(request.body()) {
            Ok(wanted) => wanted,
            Err(error) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    &format!("the body does not name a resource (namespace, name): {error}"),
                );
            }
        };
        if !self.0.is_leader.load(Ordering::Relaxed) {
            let why =
                "this autoscaler is not the leader: send the request to the leader (see GET /api/v1/leader)";
            return refuse(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        let Some(cycle) = self.find_cycle(&id, kind.as_deref()) else {
            return refuse(StatusCode::NOT_FOUND, &format!("no plugin lists {id}"));
        };
        let (answer, answered) = oneshot::channel();
        let sent = cycle.request_sleep.send(SleepRequest { id: id.clone(), answer }).await;
        let answered = match sent {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        match answered {
            Some(answered) => respond(answered),
            None => refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "this autoscaler is stopping or lost leadership; try again",
            ),
        }
    }

    /// The cycle that knows the resource; else one that may, as it could be new.
    fn find_cycle(&self, id: &ResourceId, kind: Option<&str>) -> Option<CycleView> {
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut fitting = cycles.into_iter().filter(|((of, namespace), _)| {
            kind.is_none_or(|kind| kind == of) && (*namespace == id.namespace || namespace == "*")
        });
        let first = fitting.next()?;
        let knows = |cycle: &CycleView| {
            cycle.states.lock().unwrap_or_else(PoisonError::into_inner).resources.contains_key(id)
        };
        if knows(&first.1) {
            return Some(first.1);
        }
        Some(fitting.find(|(_, cycle)| knows(cycle)).unwrap_or(first).1)
    }
}

fn respond(answered: SleepOutcome) -> Response<Full<Bytes>> {
    let (asleep, outcome, reason) = match answered {
        SleepOutcome::Attempted(end) => (end == DrainOutcome::Committed, end.name(), end.to_string()),
        SleepOutcome::AlreadyAsleep => (true, "already_asleep", "it is already scaled to zero".to_owned()),
        SleepOutcome::KeptAwake(reason) => (false, "kept_awake", reason),
        SleepOutcome::Unknown(reason) => return refuse(StatusCode::NOT_FOUND, &reason),
    };
    let status = if asleep { StatusCode::OK } else { StatusCode::CONFLICT };
    json(status, &SleepAnswer { asleep, outcome, reason })
}
