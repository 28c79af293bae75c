//! `POST /api/v1/wake`: wakes a resource as a request would, and answers when it is up.

use std::sync::Arc;

use bytes::Bytes;
use daemon::admin::{Peer, json, refuse};
use http::{Request, Response, StatusCode};
use scaler_types::ResourceId;
use serde::Deserialize;

use super::Body;
use crate::{admit::Admission, stages::Stages, state::WakeCause};

#[derive(Deserialize)]
struct WakeRequest {
    namespace: String,
    name: String,
    /// Needed if two kinds have a resource of that name.
    kind: Option<String>,
}

/// Handles the request.
pub(crate) async fn answer(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    let body: WakeRequest = match serde_json::from_slice(request.body()) {
        Ok(body) => body,
        Err(error) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("the body names no resource: {error}"));
        }
    };
    let id = ResourceId::new(body.namespace, body.name);
    let fits = |kind: &str| body.kind.as_deref().is_none_or(|wanted| wanted == kind);
    let Some(resource) =
        dlx.resources.all().into_iter().find(|resource| resource.key.id == id && fits(&resource.key.kind))
    else {
        return refuse(StatusCode::NOT_FOUND, &format!("no plugin lists {id}"));
    };
    // Counts as activity: it must not be scaled to zero again at once.
    resource.counts.touch();
    let mut admission = Admission::new(resource.clone());
    let awake = || json(StatusCode::OK, &serde_json::json!({ "awake": true }));
    if admission.enter().is_some() {
        return awake();
    }
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip().to_canonical().to_string());
    admission.note_cause(|| WakeCause::Command { client: peer.unwrap_or_default() });
    let admitted = tokio::select! {
        biased;
        // No request could be sent to it: it is up as soon as its plugin lists a ready replica.
        () = resource.runs_without_requests() => return awake(),
        admitted = admission.wait(0) => admitted,
    };
    match admitted {
        Ok(_) => awake(),
        Err(refusal) => {
            let body =
                serde_json::json!({ "awake": false, "error": refusal.error, "reason": refusal.reason });
            json(refusal.status, &body)
        }
    }
}
