//! The DLXs as metric source: every request passes one, so together they know all of them.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use daemon::cluster::causes;
use scaler_types::{Resource, duration};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{
    Activity, ActivityUnknown, DlxReports, ResourceIndex, Sample,
    error::SourceError,
    index_by_name,
    members::{DlxLastReport, Members, Unreachable},
};

/// One DLX's answer to `GET /api/v1/activity`. Every field must be there: a missing one is not zero.
#[derive(Deserialize)]
struct ActivityAnswer<'a> {
    #[serde(borrow)]
    member: Cow<'a, str>,
    /// How long ago it forgot a resource that had anything to do. Earlier versions do not say: they never give a last report.
    #[serde(default, with = "duration::go_option")]
    last_forgotten: Option<Duration>,
    #[serde(borrow)]
    resources: Vec<ResourceActivity<'a>>,
}

#[derive(Deserialize)]
struct ResourceActivity<'a> {
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
    counted_for: Duration,
    #[serde(default)]
    counted_since_start: bool,
    #[serde(borrow, default)]
    windows: HashMap<Cow<'a, str>, u64>,
}

/// Asks every live DLX, all at once and each once, about all resources and windows.
pub(crate) async fn query_activity(
    members: &Members,
    kind: &str,
    resources: &[Resource],
    windows: &BTreeSet<Duration>,
) -> Activity {
    let nothing = |unknown| Activity {
        source: DlxReports { unknown: Some(unknown), ..DlxReports::default() },
        samples: vec![Vec::new(); resources.len()],
        readings: None,
    };
    // Before the members are read: a DLX that registered by then and is not among them is gone.
    let registered = members.registered();
    let mut live = match members.read().await {
        Ok(live) => live,
        Err(error) => return nothing(ActivityUnknown::SourceFailed(error.to_string().into())),
    };
    // After that: a DLX that is gone has given its report before, or never will.
    let last_reports = members.last_reports_for(windows);
    let reported: Vec<_> = last_reports.iter().map(|(name, _)| name.clone()).collect();
    // A DLX whose last request has ended is still a member, and reports nothing more.
    live.retain(|member| !reported.iter().any(|name| **name == member.name));
    if live.is_empty() {
        let mut nobody = nothing(ActivityUnknown::NoDlx);
        (nobody.source.reported, nobody.source.registered) = (reported, registered);
        return nobody;
    }
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
    let places = index_by_name(resources);
    let mut samples = vec![Vec::with_capacity(live.len()); resources.len()];
    let mut unreachable = Vec::new();
    while let Some(answered) = questions.join_next().await {
        // A question that panicked is one that was not answered; its member is missing below.
        let Ok((member, answer)) = answered else { continue };
        let name: Arc<str> = member.name.as_str().into();
        let merged = answer.and_then(|body| {
            merge(&body, &name, Duration::ZERO, kind, &places, &mut samples)
                .map_err(|error| Unreachable { reason: causes(&error).into() })
        });
        members.record_answer(&member.name, merged.as_ref().err());
        if merged.is_err() {
            unreachable.push(member.name);
        }
    }
    for (name, DlxLastReport { at, body }) in &last_reports {
        let merged = merge_last(body, name, at.elapsed(), kind, &places, windows, &mut samples);
        if let Err(error) = merged {
            members.record_answer(name, Some(&Unreachable { reason: causes(&error).into() }));
            unreachable.push(name.to_string());
        }
    }
    unreachable.sort();
    let source = DlxReports {
        members: live.iter().map(|member| member.name.as_str().into()).collect(),
        reported,
        registered,
        unknown: (!unreachable.is_empty()).then(|| ActivityUnknown::Unreachable(unreachable.into())),
    };
    Activity { source, samples, readings: None }
}

/// Adds the last report of a DLX, which it gave so long `ago`.
fn merge_last(
    body: &[u8],
    member: &Arc<str>,
    ago: Duration,
    kind: &str,
    places: &ResourceIndex<'_>,
    windows: &BTreeSet<Duration>,
    samples: &mut [Vec<Sample>],
) -> Result<(), SourceError> {
    let Some(forgotten) = merge(body, member, ago, kind, places, samples)? else { return Ok(()) };
    // The DLX may have forgotten a resource that it does not name, with its counts.
    let known = windows.iter().filter(|window| forgotten >= **window).map(|window| (*window, 0));
    for samples in samples.iter_mut().filter(|samples| samples.iter().all(|sample| sample.member != *member))
    {
        samples.push(Sample {
            member: member.clone(),
            requests: 0,
            in_flight: 0,
            held: 0,
            idle: None,
            counted_for: forgotten,
            counted_since_start: false,
            counts: known.clone().collect(),
        });
    }
    Ok(())
}

/// Adds one DLX's answer, which it gave so long `ago`, to the samples; how long ago it forgot one of its resources. The error says what is
/// wrong with it.
fn merge(
    body: &[u8],
    member: &Arc<str>,
    ago: Duration,
    kind: &str,
    places: &ResourceIndex<'_>,
    samples: &mut [Vec<Sample>],
) -> Result<Option<Duration>, SourceError> {
    let answer: ActivityAnswer<'_> = serde_json::from_slice(body)?;
    if answer.member != **member {
        // One that took over the address of another knows nothing of what the other did.
        return Err(SourceError::OtherDlx(answer.member.into_owned()));
    }
    for resource in answer.resources {
        if resource.kind != kind {
            continue;
        }
        let Some(place) = places.get(&*resource.namespace).and_then(|names| names.get(&*resource.name))
        else {
            continue;
        };
        let counts = resource.windows.iter().map(|(window, count)| Ok((duration::parse(window)?, *count)));
        let counts: Result<_, duration::NotADuration> = counts.collect();
        let sample = Sample {
            member: member.clone(),
            requests: resource.requests,
            in_flight: resource.in_flight,
            held: resource.held,
            idle: resource.idle,
            counted_for: resource.counted_for,
            counted_since_start: resource.counted_since_start,
            counts: counts?,
        };
        samples[*place].push(sample.later(ago));
    }
    Ok(answer.last_forgotten.map(|forgotten| forgotten.saturating_add(ago)))
}

#[cfg(test)]
mod tests;
