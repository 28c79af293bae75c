//! `GET /api/v1/activity?window=10m`: the activity of all resources. Durations only: the reader's clock differs.
//!
//! `GET /api/v1/last-activity` answers the same for resources with activity, after the last request of a DLX that stops;
//! `POST` to it, with the DLX's name, acknowledges that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::admin::{json, refuse};
use http::{Request, Response, StatusCode};
use scaler_types::duration;
use serde::{Deserialize, Serialize};

use super::Body;
use crate::{stages::Stages, state::ResourceHandle};

#[derive(Serialize)]
struct Activity {
    member: String,
    /// After the first signal: ask once more after its last request.
    stopping: bool,
    /// How long ago a resource with activity was last forgotten; null: never.
    last_forgotten: Option<String>,
    resources: Vec<Resource>,
}

#[derive(Serialize)]
struct Resource {
    namespace: String,
    name: String,
    kind: String,
    requests: u64,
    in_flight: u64,
    held: usize,
    /// Time since the last activity; null if there never was any.
    idle: Option<String>,
    /// How long it has been counted.
    counted_for: String,
    /// It was counted without a gap since this DLX started.
    counted_since_start: bool,
    windows: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Received {
    member: String,
}

/// Handles `GET /api/v1/activity`.
pub(crate) async fn answer(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    dlx.last_report.note_request();
    respond(&dlx, &request, |_| true)
}

/// Handles `GET /api/v1/last-activity`: answers after the last request.
pub(crate) async fn last(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    let Some(_place) = dlx.last_report.wait() else {
        return refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too many wait for the last activity already; ask again later",
        );
    };
    dlx.last_report.note_request();
    dlx.last_report.finished().await;
    // A resource that is left out never had any activity.
    respond(&dlx, &request, |resource| !resource.counted_since_start || resource.counts.idle().is_some())
}

/// Handles `POST /api/v1/last-activity`: the autoscaler has the answer of [`last`].
pub(crate) async fn received(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    match serde_json::from_slice::<Received>(request.body()) {
        Ok(Received { member }) if member == dlx.member => {}
        Ok(Received { member }) => {
            return refuse(StatusCode::CONFLICT, &format!("this is {}, not {member}", dlx.member));
        }
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("the body names no DLX: {error}")),
    }
    if dlx.last_report.received() {
        json(StatusCode::OK, &serde_json::json!({ "member": dlx.member }))
    } else {
        refuse(StatusCode::CONFLICT, "this DLX still accepts requests: its last report is not complete yet")
    }
}

fn respond(
    dlx: &Stages,
    request: &Request<Bytes>,
    include: impl Fn(&ResourceHandle) -> bool,
) -> Response<Body> {
    let mut windows = Vec::new();
    let query = request.uri().query().unwrap_or_default();
    for text in query.split('&').filter_map(|pair| pair.strip_prefix("window=")) {
        match duration::parse(text) {
            Ok(window) => windows.push(window),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
    // Read first: a resource that is forgotten after it is still listed, or `forgotten` says so.
    let all = dlx.resources.all();
    let resources = all
        .iter()
        .filter(|resource| include(resource))
        .map(|resource| describe(resource, &windows))
        .collect();
    json(
        StatusCode::OK,
        &Activity {
            member: dlx.member.clone(),
            stopping: dlx.stopping.signalled.is_cancelled(),
            last_forgotten: dlx.resources.forgotten().map(duration::short),
            resources,
        },
    )
}

fn describe(resource: &ResourceHandle, windows: &[Duration]) -> Resource {
    // In this order: a request that ends in between is seen as recent activity.
    let in_flight = resource.counts.in_flight();
    let held = resource.queue.len();
    let idle = resource.counts.idle();
    Resource {
        namespace: resource.key.id.namespace.clone(),
        name: resource.key.id.name.clone(),
        kind: resource.key.kind.to_string(),
        requests: resource.counts.total(),
        in_flight,
        held,
        idle: idle.map(duration::short),
        counted_for: duration::short(resource.counts.counting()),
        counted_since_start: resource.counted_since_start,
        windows: windows
            .iter()
            .map(|window| (duration::short(*window), resource.counts.within(*window)))
            .collect(),
    }
}
