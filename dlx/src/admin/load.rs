//! `POST /api/v1/load`: what the named resources have to do now, for the autoscaler that chooses their replicas. Others are not
//! looked at. Times are by this process's clock: only two answers of one process can be compared.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use daemon::admin::{json, refuse};
use http::{Request, Response, StatusCode};
use scaler_types::ResourceId;
use serde::{Deserialize, Serialize};

use super::Body;
use crate::{
    stages::Stages,
    state::{ResourceHandle, ResourceKey, ResourceView},
};

#[derive(Deserialize)]
struct LoadQuestion {
    kind: String,
    resources: Vec<ResourceId>,
}

#[derive(Serialize)]
struct LoadAnswer {
    member: String,
    resources: Vec<ResourceLoad>,
}

#[derive(Serialize)]
struct ResourceLoad {
    #[serde(flatten)]
    id: ResourceId,
    /// Requests so far.
    requests: u64,
    held: usize,
    /// The milliseconds that requests were in flight, added up, modulo 2^40.
    in_flight_ms: u64,
    /// When that was.
    at_ms: u64,
    /// Requests in flight by the incarnation of their endpoint, also where it is not listed any more; only where there are any.
    busy: BTreeMap<String, u64>,
}

/// Handles the request. A resource that this DLX does not know is left out.
pub(crate) async fn answer(dlx: Arc<Stages>, request: Request<Bytes>) -> Response<Body> {
    let question: LoadQuestion = match serde_json::from_slice(request.body()) {
        Ok(question) => question,
        Err(error) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("the body names no resources: {error}"));
        }
    };
    let kind: Arc<str> = question.kind.into();
    let known = |id| dlx.resources.get(&ResourceKey { kind: kind.clone(), id });
    let resources =
        question.resources.into_iter().filter_map(known).map(|resource| describe(&resource)).collect();
    json(StatusCode::OK, &LoadAnswer { member: dlx.member.clone(), resources })
}

fn describe(resource: &ResourceHandle) -> ResourceLoad {
    let busy = resource.read(ResourceView::in_flight_by_incarnation);
    // A request that is dispatched in between is counted twice rather than not at all.
    let held = resource.queue.len();
    let (in_flight_ms, at_ms) = resource.counts.in_flight_ms();
    ResourceLoad {
        id: resource.key.id.clone(),
        requests: resource.counts.total(),
        held,
        in_flight_ms,
        at_ms,
        busy,
    }
}
