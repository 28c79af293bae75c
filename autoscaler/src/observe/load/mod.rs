//! What the DLXs report of the requests of the resources that have a target for them: only these are asked about.

mod history;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use daemon::{cluster::causes, members::Member};
use scaler_types::ResourceId;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use super::members::{Members, Unreachable};
pub(crate) use history::{LoadHistory, LoadSample};

#[derive(Serialize)]
struct LoadQuestion<'a> {
    kind: &'a str,
    resources: &'a [ResourceId],
}

#[derive(Deserialize)]
struct LoadAnswer {
    member: String,
    resources: Vec<ResourceLoad>,
}

/// Every field must be there: a missing one is not zero.
#[derive(Deserialize)]
struct ResourceLoad {
    #[serde(flatten)]
    id: ResourceId,
    requests: u64,
    held: u64,
    in_flight_ms: u64,
    at_ms: u64,
    busy: HashMap<String, u64>,
}

/// The reports of all DLXs.
#[derive(Debug)]
pub(crate) struct LoadReports {
    /// When they were asked.
    pub(crate) at: Instant,
    /// The resources that they were asked about.
    pub(crate) resources: Vec<ResourceId>,
    /// The DLXs that answered, and what they know of each resource.
    answers: Vec<(Arc<str>, HashMap<ResourceId, LoadSample>)>,
    /// Why not all of them answered.
    unknown: Option<Arc<str>>,
}

/// How many resources one request names. Their names stay far below the largest body that a DLX reads.
const MAX_ASKED_AT_ONCE: usize = 1_000;

/// Asks every live DLX, all at once, about these resources of this kind.
pub(crate) async fn query_load(members: &Members, kind: &str, resources: Vec<ResourceId>) -> LoadReports {
    let at = Instant::now();
    let mut reports = LoadReports { at, resources, answers: Vec::new(), unknown: None };
    let live = match members.read().await {
        Ok(live) => live,
        Err(error) => {
            reports.unknown = Some(format!("listing the DLXs: {error}").into());
            return reports;
        }
    };
    let pieces = reports.resources.chunks(MAX_ASKED_AT_ONCE);
    let bodies =
        pieces.map(|resources| serde_json::to_vec(&LoadQuestion { kind, resources }).map(Bytes::from));
    let bodies: Arc<[Bytes]> = match bodies.collect::<Result<Vec<_>, _>>() {
        Ok(bodies) => bodies.into(),
        Err(error) => {
            reports.unknown = Some(error.to_string().into());
            return reports;
        }
    };
    let mut questions = JoinSet::new();
    let asked = live.len();
    for member in live {
        let (members, bodies) = (members.clone(), bodies.clone());
        questions.spawn(async move {
            let samples = query_member(&members, &member, &bodies).await;
            (Arc::from(member.name), samples)
        });
    }
    while let Some(answered) = questions.join_next().await {
        let Ok((member, samples)) = answered else { continue };
        match samples {
            Ok(samples) => reports.answers.push((member, samples)),
            Err(Unreachable { reason }) => {
                reports.unknown = Some(format!("no answer from DLX {member}: {reason}").into());
            }
        }
    }
    if reports.answers.len() < asked {
        reports.unknown.get_or_insert_with(|| "a DLX did not answer".into());
    }
    reports
}

/// Asks one DLX, one question after the other.
async fn query_member(
    members: &Members,
    member: &Member,
    bodies: &[Bytes],
) -> Result<HashMap<ResourceId, LoadSample>, Unreachable> {
    let mut samples = HashMap::new();
    for body in bodies {
        let answer = members.load(member, body.clone()).await?;
        samples.extend(parse(member, &answer)?);
    }
    Ok(samples)
}

fn parse(member: &Member, body: &[u8]) -> Result<HashMap<ResourceId, LoadSample>, Unreachable> {
    let answer: LoadAnswer =
        serde_json::from_slice(body).map_err(|error| Unreachable { reason: causes(&error).into() })?;
    if answer.member != member.name {
        // One that took over the address of another knows nothing of what the other does.
        let reason = format!("another DLX, {}, answered at its address", answer.member).into();
        return Err(Unreachable { reason });
    }
    let sample = |load: ResourceLoad| {
        let ResourceLoad { id, requests, held, in_flight_ms, at_ms, busy } = load;
        let mut busy: Vec<_> = busy.into_keys().filter(|incarnation| !incarnation.is_empty()).collect();
        busy.sort();
        (id, LoadSample { requests, held, in_flight_ms, at_ms, busy })
    };
    Ok(answer.resources.into_iter().map(sample).collect())
}

// === impl LoadReports ===

impl LoadReports {
    /// What was reported of one resource.
    pub(crate) fn add_to(&self, id: &ResourceId, history: &mut LoadHistory) {
        let mut unknown = self.unknown.clone();
        let mut samples = Vec::with_capacity(self.answers.len());
        for (member, loads) in &self.answers {
            match loads.get(id) {
                Some(sample) => samples.push((member.clone(), sample.clone())),
                None => unknown = Some(format!("DLX {member} does not know it yet").into()),
            }
        }
        if self.answers.is_empty() && unknown.is_none() {
            unknown = Some("there is no DLX to count requests".into());
        }
        history.observe(self.at, samples, unknown);
    }
}

#[cfg(test)]
mod tests;
