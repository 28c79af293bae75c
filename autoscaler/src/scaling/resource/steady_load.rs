//! Requests whose number stays about as it is, by a clock that the test moves.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{observe::load::LoadSample, testing::id};

/// How often the DLXs are asked, in seconds.
const STEP: u32 = 3;
/// Half an hour.
const STEPS: usize = 600;
/// How many requests a second a connection makes, one after the other.
const PER_SECOND: f64 = 4.0;
const WALL: u64 = 1_800_000_000;

/// When the number of replicas changes, in seconds from the beginning, under the load of so many connections, which is a little
/// more or less in each step.
fn changes(connections: u32, target: f64, noise: &[f64]) -> Vec<u64> {
    let mut resource = Resource::new(id("web"));
    resource.replicas = 1;
    resource.scaling = Some(Scaling {
        in_flight_per_replica: Some(target),
        requests_per_replica: Some(target * PER_SECOND),
        last_scaled: Some(WALL - 3600),
        ..Scaling::up_to(200)
    });
    let mut scaled = ScaledResource::new(resource);
    let (start, source, queues) = (Instant::now(), MetricsSource::Dlx, HashMap::new());
    let (mut seconds, mut spent, mut changes) = (0, 0.0, Vec::new());
    for noise in noise {
        seconds += u64::from(STEP);
        spent += f64::from(connections) * noise * f64::from(STEP);
        let (now, wall) = (start + Duration::from_secs(seconds), WALL + seconds);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^53")]
        let (requests, in_flight_ms) = ((spent * PER_SECOND) as u64, (spent * 1000.0) as u64);
        let at_ms = seconds * 1000;
        let sample = LoadSample { requests, held: 0, in_flight_ms, at_ms, busy: Vec::new() };
        scaled.load.observe(now, vec![("dlx".into(), sample)], None);
        scaled.note_reading();
        let context = RuleContext { now, wall, compatibility: None, source: &source, queues: &queues };
        match scaled.evaluate(context) {
            Some(ScaleAction::Resize { to, .. }) => {
                let scaling = scaled.resource.scaling.as_mut().expect("it has targets");
                (scaling.last_scaled, scaled.resource.replicas) = (Some(wall), to);
                changes.push(seconds);
            }
            other => assert_eq!(other, None),
        }
    }
    changes
}

proptest! {
    #[test]
    fn it_changes_the_replicas_once_at_most_in_five_minutes(
        connections in 1..=64_u32,
        target in 0.5..20.0_f64,
        noise in vec(0.97..1.03_f64, STEPS),
    ) {
        let changes = changes(connections, target, &noise);
        prop_assert!(changes.windows(2).all(|two| two[1] - two[0] >= 300), "{changes:?}");
        // What is more than one replica's is noticed at once.
        if f64::from(connections) > target * 1.2 {
            prop_assert!(changes.first().is_some_and(|first| *first <= 4 * u64::from(STEP)), "{changes:?}");
        }
    }
}
