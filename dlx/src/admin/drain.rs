//! `POST /api/v1/confirm-drain`: the autoscaler asks whether this DLX sees its drain attempt and has nothing in flight.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::admin::{json, refuse};
use http::{Request, Response, StatusCode};
use scaler_types::{Nonce, ResourceId, duration};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::Body;
use crate::{
    stages::Stages,
    state::{DrainNotConfirmed, ResourceHandle, ResourceKey},
};

/// The longest wait for the view, whatever the request says.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct DrainQuestion {
    namespace: String,
    name: String,
    kind: String,
    nonce: Nonce,
    #[serde(default, with = "duration::go")]
    wait: Duration,
    /// The DLX it is meant for. Two incarnations may share an inherited admin socket for a while: one of them cannot
    /// confirm for the other.
    #[serde(default)]
    member: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    confirmed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Handles the request.
pub(crate) async fn answer(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    let question: DrainQuestion = match serde_json::from_slice(request.body()) {
        Ok(question) => question,
        Err(error) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("the body is no drain question: {error}"));
        }
    };
    if let Some(other) = question.member.filter(|member| *member != dlx.member) {
        let reason = Some(format!("this is {}, not {other}", dlx.member));
        return json(StatusCode::CONFLICT, &Answer { confirmed: false, reason });
    }
    let deadline = Instant::now() + question.wait.min(LONGEST_WAIT);
    let key = ResourceKey {
        kind: question.kind.as_str().into(),
        id: ResourceId::new(question.namespace, question.name),
    };
    let confirmed = match known(&dlx, &key, deadline).await {
        Some(resource) => resource.confirm_drain(question.nonce, deadline).await,
        None => Err(DrainNotConfirmed::UnknownResource),
    };
    let reason = confirmed.err().map(|error| error.to_string());
    let confirmed = reason.is_none();
    tracing::debug!(resource = %key.id, nonce = %question.nonce, confirmed, reason, "answered whether a drain is confirmed");
    json(if confirmed { StatusCode::OK } else { StatusCode::CONFLICT }, &Answer { confirmed, reason })
}

/// The resource, as soon as it is known.
async fn known(dlx: &Stages, key: &ResourceKey, deadline: Instant) -> Option<Arc<ResourceHandle>> {
    loop {
        let mut replaced = std::pin::pin!(dlx.resources.replaced());
        // From here on no new resource is missed.
        replaced.as_mut().enable();
        if let Some(resource) = dlx.resources.get(key) {
            return Some(resource);
        }
        timeout_at(deadline, replaced).await.ok()?;
    }
}
