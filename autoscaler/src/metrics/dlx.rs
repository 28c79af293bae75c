//! The DLXs as metric source: every request passes one, so together they know all of them.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use scaler_types::{Resource, duration};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{Activity, Places, Sample, Source, Unknown, places};
use crate::members::{Members, Silent};

/// What one DLX answers to `GET /api/v1/activity`. Every field must be there: a missing one is not zero.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    member: Cow<'a, str>,
    #[serde(borrow)]
    resources: Vec<Told<'a>>,
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    requests: u64,
    in_flight: u64,
    held: u64,
    #[serde(with = "duration::go_option")]
    idle: Option<Duration>,
    #[serde(with = "duration::go")]
    counting: Duration,
    #[serde(borrow, default)]
    windows: HashMap<Cow<'a, str>, u64>,
}

/// Asks every live DLX, all at once and each once, about all resources and windows.
pub async fn ask(
    members: &Members,
    kind: &str,
    resources: &[Resource],
    windows: &BTreeSet<Duration>,
) -> Activity {
    let nothing = |unknown| Activity {
        source: Source { members: Vec::new(), unknown: Some(unknown) },
        samples: vec![Vec::new(); resources.len()],
        readings: None,
    };
    let live = match members.live().await {
        Ok(live) if live.is_empty() => return nothing(Unknown::NoMembers),
        Ok(live) => live,
        Err(error) => return nothing(Unknown::Failed(error.to_string().into())),
    };
    let query: Vec<_> = windows.iter().map(|window| format!("window={}", duration::short(*window))).collect();
    let path: Arc<str> = format!("/api/v1/activity?{}", query.join("&")).into();
    let mut questions = JoinSet::new();
    for member in live.iter().cloned() {
        let (members, path) = (members.clone(), path.clone());
        questions.spawn(async move {
            let answer = members.get(&member, &path).await;
            (member, answer)
        });
    }
    let places = places(resources);
    let mut samples = vec![Vec::with_capacity(live.len()); resources.len()];
    let mut silent = Vec::new();
    while let Some(asked) = questions.join_next().await {
        // A question that panicked is one that was not answered; its member is missing below.
        let Ok((member, answer)) = asked else { continue };
        let name: Arc<str> = member.name.as_str().into();
        let merged = answer.and_then(|body| {
            merge(&body, &name, kind, &places, &mut samples)
                .map_err(|reason| Silent { reason: reason.into() })
        });
        members.heard(&member.name, merged.as_ref().err());
        if merged.is_err() {
            silent.push(member.name);
        }
    }
    silent.sort();
    let source = Source {
        members: live.iter().map(|member| member.name.as_str().into()).collect(),
        unknown: (!silent.is_empty()).then(|| Unknown::Silent(silent.into())),
    };
    Activity { source, samples, readings: None }
}

/// Adds one DLX's answer to the samples; the error says what is wrong with it.
fn merge(
    body: &[u8],
    member: &Arc<str>,
    kind: &str,
    places: &Places<'_>,
    samples: &mut [Vec<Sample>],
) -> Result<(), String> {
    let answer: Answer<'_> =
        serde_json::from_slice(body).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if answer.member != **member {
        // One that took over the address of another knows nothing of what the other did.
        return Err(format!("{} answers at its address", answer.member));
    }
    for told in answer.resources {
        if told.kind != kind {
            continue;
        }
        let Some(place) = places.get(&*told.namespace).and_then(|names| names.get(&*told.name)) else {
            continue;
        };
        let counts = told.windows.iter().map(|(window, count)| Ok((duration::parse(window)?, *count)));
        let counts: Result<_, duration::NotADuration> = counts.collect();
        samples[*place].push(Sample {
            member: member.clone(),
            requests: told.requests,
            in_flight: told.in_flight,
            held: told.held,
            idle: told.idle,
            counting: told.counting,
            counts: counts.map_err(|error| format!("its answer cannot be read: {error}"))?,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
