//! `POST /api/v1/sleep`: tries to put a resource to zero now, whatever its windows say, and answers when that is over.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bytes::Bytes;
use daemon::admin::{Handler, json, refuse};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use scaler_types::ResourceId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Shown, View};
use crate::{
    cycle::{Answered, Asked},
    drain::End,
};

#[derive(Deserialize)]
struct Wanted {
    #[serde(flatten)]
    id: ResourceId,
    /// Needed where two kinds have a resource of that name.
    kind: Option<String>,
}

#[derive(Serialize)]
struct Slept {
    asleep: bool,
    /// `committed`, `reverted`, `failed`, `at_zero` or `kept`.
    outcome: &'static str,
    reason: String,
}

impl View {
    /// `POST /api/v1/sleep` with `{"namespace","name","kind"?}`: 200 if it is at zero now, else 409.
    pub fn sleep(&self) -> Handler {
        let view = self.clone();
        Arc::new(move |request: Request<Bytes>| {
            let view = view.clone();
            Box::pin(async move { view.put_to_sleep(&request).await })
        })
    }

    async fn put_to_sleep(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        let Wanted { id, kind } = match serde_json::from_slice(request.body()) {
            Ok(wanted) => wanted,
            Err(error) => {
                return refuse(StatusCode::BAD_REQUEST, &format!("the body names no resource: {error}"));
            }
        };
        if !self.0.leads.load(Ordering::Relaxed) {
            let why = "this autoscaler does not lead: ask the one that does (GET /api/v1/leader)";
            return refuse(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        let Some(shown) = self.whose(&id, kind.as_deref()) else {
            return refuse(StatusCode::NOT_FOUND, &format!("no plugin lists {id}"));
        };
        let (answer, answered) = oneshot::channel();
        let asked = shown.ask.send(Asked { id: id.clone(), answer }).await;
        let answered = match asked {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        match answered {
            Some(answered) => told(answered),
            None => refuse(StatusCode::SERVICE_UNAVAILABLE, "this autoscaler is stopping, or leads no more"),
        }
    }

    /// The cycle that knows the resource; else one that may, as it could be new.
    fn whose(&self, id: &ResourceId, kind: Option<&str>) -> Option<Shown> {
        let cycles = self.0.cycles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut fitting = cycles.into_iter().filter(|((of, namespace), _)| {
            kind.is_none_or(|kind| kind == of) && (*namespace == id.namespace || namespace == "*")
        });
        let first = fitting.next()?;
        let knows = |shown: &Shown| {
            shown.memory.lock().unwrap_or_else(PoisonError::into_inner).resources.contains_key(id)
        };
        if knows(&first.1) {
            return Some(first.1);
        }
        Some(fitting.find(|(_, shown)| knows(shown)).unwrap_or(first).1)
    }
}

fn told(answered: Answered) -> Response<Full<Bytes>> {
    let (asleep, outcome, reason) = match answered {
        Answered::Tried(end) => (end == End::Committed, end.name(), end.to_string()),
        Answered::AtZero => (true, "at_zero", "it is at zero already".to_owned()),
        Answered::Kept(reason) => (false, "kept", reason),
        Answered::Unknown(reason) => return refuse(StatusCode::NOT_FOUND, &reason),
    };
    let status = if asleep { StatusCode::OK } else { StatusCode::CONFLICT };
    json(status, &Slept { asleep, outcome, reason })
}
