//! `GET /api/v1/activity?window=10m`: what the resources had to do. Durations only: the reader's clock is another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::admin::{json, refuse};
use http::{Request, Response, StatusCode};
use scaler_types::duration;
use serde::Serialize;

use super::Body;
use crate::{dlx::Dlx, resource::Entry};

#[derive(Serialize)]
struct Activity {
    member: String,
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
    /// For how long it has counted.
    counting: String,
    windows: BTreeMap<String, u64>,
}

/// Answers.
pub async fn answer(dlx: Arc<Dlx>, request: Request<Bytes>) -> Response<Body> {
    let mut windows = Vec::new();
    let query = request.uri().query().unwrap_or_default();
    for text in query.split('&').filter_map(|pair| pair.strip_prefix("window=")) {
        match duration::parse(text) {
            Ok(window) => windows.push(window),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
    let resources = dlx.registry.all().iter().map(|entry| resource(entry, &windows)).collect();
    json(StatusCode::OK, &Activity { member: dlx.member.clone(), resources })
}

fn resource(entry: &Entry, windows: &[Duration]) -> Resource {
    // In this order: what leaves flight in between is seen as a recent activity.
    let in_flight = entry.counts.in_flight();
    let held = entry.queue.len();
    let idle = entry.counts.idle();
    Resource {
        namespace: entry.key.id.namespace.clone(),
        name: entry.key.id.name.clone(),
        kind: entry.key.kind.to_string(),
        requests: entry.counts.total(),
        in_flight,
        held,
        idle: idle.map(duration::short),
        counting: duration::short(entry.counts.counting()),
        windows: windows
            .iter()
            .map(|window| (duration::short(*window), entry.counts.within(*window)))
            .collect(),
    }
}
