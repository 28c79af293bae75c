use proptest::prelude::*;

use super::*;

/// One row: messages, sent per minute, seconds per job, target, current, idle, min, max, disruption.
type Row = (f64, f64, f64, f64, u32, u64, u32, u32, Disruption);

const ALL: Disruption = Disruption::Percent(100);
const NONE: Disruption = Disruption::Percent(0);

fn percent(percent: u32) -> Disruption {
    Disruption::Percent(percent)
}

fn messages(value: f64, target: f64) -> Load {
    Load {
        metric: "messages".into(),
        is_count: true,
        value,
        target,
        unknown: None,
        not_shown: None,
        wakes: true,
    }
}

fn limits(min: u32, max: u32, disruption: Disruption) -> Scaling {
    Scaling { min_replicas: min, max_disruption: disruption, ..Scaling::up_to(max) }
}

fn input<'a>(scaling: &'a Scaling, current: u32, loads: &'a [Load]) -> ScalingInput<'a> {
    ScalingInput {
        scaling,
        compatibility: None,
        current,
        loads,
        arriving_per_minute: None,
        idle_consumers: None,
        since_scaled: Some(Duration::from_secs(3600)),
    }
}

fn row(row: Row, compatibility: Option<Compatibility>) -> u32 {
    let (waiting, rate, seconds, target, current, idle, min, max, disruption) = row;
    let scaling = Scaling {
        seconds_per_message: (seconds > 0.0).then_some(seconds),
        messages_per_replica: Some(target),
        ..limits(min, max, disruption)
    };
    let loads = [messages(waiting, target)];
    let input = ScalingInput {
        compatibility,
        arriving_per_minute: (rate >= 0.0).then_some(rate),
        idle_consumers: Some(idle),
        since_scaled: None,
        ..input(&scaling, current, &loads)
    };
    desired_replicas(&input).replicas
}

const WPA: Option<Compatibility> = Some(Compatibility::WorkerPodAutoscaler);

/// The reference's tables 4.10.1, 4.10.2 and 4.10.3: what Worker Pod Autoscaler's own tests, README and issues expect.
#[test]
fn compatibility_gives_the_numbers_of_worker_pod_autoscaler() {
    for (name, given, expected) in [
        ("T1 #89 fewer messages than the target", (10.0, 10.0, 0.3, 200.0, 20, 0, 0, 20, percent(10)), 18),
        ("T2 #70 the floor is above max", (1.0, 2136.0, 10.0, 2500.0, 10, 0, 2, 20, NONE), 20),
        ("T3a #101 long jobs", (100.0, 0.0, 0.0, 10.0, 0, 0, 0, 500, NONE), 10),
        ("T3b", (100.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, NONE), 10),
        ("T3c half of them, no disruption", (50.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, NONE), 10),
        ("T3d half of them", (50.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), 5),
        ("T4 #97 by the target", (20.0, 0.0, 300.0, 10.0, 0, 0, 0, 100, ALL), 2),
        ("T5 #97 by the rate", (0.0, 120.0, 1.0, 60.0, 1, 0, 0, 100, ALL), 2),
        ("T6 #133 min and max 0", (5.0, 120.0, 0.0, 60.0, 0, 0, 0, 0, ALL), 0),
        ("README target", (200.0, 0.0, 0.0, 20.0, 0, 0, 0, 1000, ALL), 10),
        ("README rate", (0.0, 300.0, 0.5, 20.0, 1, 0, 1, 1000, ALL), 3),
        ("README 50%", (0.0, 0.0, 0.0, 40.0, 500, 0, 2, 1000, percent(50)), 250),
        ("README 125", (0.0, 0.0, 0.0, 40.0, 500, 0, 2, 1000, Disruption::Replicas(125)), 375),
        ("#80", (0.0, 0.0, 0.0, 40.0, 17, 0, 0, 20, percent(50)), 8),
        ("#116", (1000.0, 0.0, 0.0, 40.0, 0, 0, 0, 100, ALL), 25),
        ("#143", (0.0, 0.0, 0.0, 40.0, 53, 0, 0, 100, percent(1)), 52),
        ("all idle", (0.0, 0.0, 0.0, 10.0, 17, 17, 0, 20, percent(10)), 0),
        ("all idle, min", (0.0, 0.0, 0.0, 10.0, 17, 17, 3, 20, percent(10)), 3),
        ("partly idle, none", (0.0, 0.0, 0.0, 10.0, 17, 0, 0, 20, NONE), 17),
        ("tolerance above", (110.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), 10),
        ("tolerance below", (90.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), 10),
        ("just above", (120.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), 12),
        ("just below", (80.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), 8),
        ("small", (2.0, 0.0, 0.0, 1.0, 1, 0, 0, 500, ALL), 2),
        ("rate on the way down", (0.0, 300.0, 0.5, 40.0, 10, 0, 1, 100, ALL), 3),
        ("above max", (100.0, 0.0, 0.0, 1.0, 30, 0, 0, 20, NONE), 20),
        ("below min", (1.0, 0.0, 0.0, 100.0, 1, 0, 5, 20, NONE), 5),
        ("min is max", (0.0, 0.0, 0.0, 100.0, 1, 0, 3, 3, ALL), 3),
        ("min is above max", (0.0, 0.0, 0.0, 100.0, 1, 0, 30, 3, ALL), 3),
        ("rate unknown", (0.0, -1.0, 10.0, 100.0, 4, 0, 1, 30, ALL), 1),
        ("one message", (1.0, 0.0, 0.0, 100.0, 0, 0, 0, 30, ALL), 1),
        ("rate alone", (0.0, 120.0, 1.0, 60.0, 0, 0, 0, 100, ALL), 2),
    ] {
        assert_eq!(row(given, WPA), expected, "{name}");
    }
}

/// Table 4.6, the gate: up at once, down after the delay; never scaled means that it may. 4.10.4 has these rows.
#[test]
fn compatibility_waits_with_a_step_down_as_worker_pod_autoscaler_does() {
    let scaling = Scaling { scale_down_delay: Duration::from_secs(5), ..limits(0, 100, ALL) };
    for (current, wanted, since, expected) in [
        (10, 5.0, Some(10), 5),
        (10, 5.0, Some(1), 10),
        (10, 5.0, None, 5),
        (10, 15.0, Some(1), 15),
        (10, 10.0, Some(1), 10),
    ] {
        let loads = [messages(wanted, 1.0)];
        let since_scaled = since.map(Duration::from_secs);
        let given = ScalingInput { compatibility: WPA, since_scaled, ..input(&scaling, current, &loads) };
        assert_eq!(desired_replicas(&given).replicas, expected, "{current} to {wanted} after {since:?}");
    }
}

#[test]
fn where_that_is_a_fault_the_default_differs() {
    let hour = Some(Duration::from_secs(3600));
    let decide = |given: Row, since_scaled| {
        let (waiting, rate, seconds, target, current, idle, min, max, disruption) = given;
        let scaling = Scaling {
            seconds_per_message: (seconds > 0.0).then_some(seconds),
            ..limits(min, max, disruption)
        };
        let loads = [messages(waiting, target)];
        let arriving_per_minute = (rate >= 0.0).then_some(rate);
        let idle_consumers = Some(idle);
        let given = input(&scaling, current, &loads);
        desired_replicas(&ScalingInput { arriving_per_minute, idle_consumers, since_scaled, ..given })
    };
    for (name, given, expected) in [
        ("zero is for a drain to decide", (0.0, 0.0, 0.0, 10.0, 17, 17, 0, 20, percent(10)), 1),
        ("more workers wait than there are pods", (0.0, 0.0, 0.0, 10.0, 17, 40, 0, 20, percent(10)), 1),
        ("tolerance for few replicas", (11.0, 0.0, 0.0, 10.0, 1, 0, 0, 20, ALL), 1),
        ("a rate does not wake", (0.0, 120.0, 1.0, 60.0, 0, 0, 0, 100, ALL), 0),
        ("an unknown rate keeps what there is", (0.0, -1.0, 10.0, 100.0, 4, 0, 1, 30, ALL), 4),
        ("min does not wake", (0.0, 0.0, 0.0, 10.0, 0, 0, 2, 30, ALL), 0),
        ("min counts from the first message on", (1.0, 0.0, 0.0, 10.0, 0, 0, 2, 30, ALL), 2),
        ("max is max", (100.0, 0.0, 0.0, 1.0, 30, 0, 0, 20, NONE), 20),
        ("min is above max", (0.0, 0.0, 0.0, 100.0, 1, 0, 30, 3, ALL), 3),
    ] {
        assert_eq!(decide(given, hour).replicas, expected, "{name}");
    }
    let never = decide((50.0, 0.0, 0.0, 10.0, 10, 0, 0, 500, ALL), None);
    assert_eq!(
        (never.replicas, never.limit),
        (10, Limit::Delay(Duration::from_secs(300))),
        "unknown counts as now"
    );
}

#[test]
fn the_largest_metric_decides_and_its_reason_is_shown() {
    let scaling = limits(2, 10, percent(50));
    let mut loads = vec![
        messages(55.0, 20.0),
        Load { metric: "lag in 1m".into(), is_count: false, wakes: false, ..messages(9.0, 2.0) },
    ];
    let decided = desired_replicas(&input(&scaling, 2, &loads));
    assert_eq!((decided.replicas, decided.has_work), (5, true));
    assert_eq!(decided.to_string(), "lag in 1m is 9, 2 per replica: 5 replicas wanted");
    loads[0].value = 0.0;
    assert!(!desired_replicas(&input(&scaling, 2, &loads)).has_work, "requests wake by themselves");
    loads[1].value = 1000.0;
    let decided = desired_replicas(&input(&scaling, 2, &loads));
    assert_eq!(decided.replicas, 10);
    assert_eq!(
        decided.to_string(),
        "lag in 1m is 1000, 2 per replica: 500 replicas wanted; limited to 10 by max-replicas"
    );
    loads[1].value = 0.0;
    let decided = desired_replicas(&input(&scaling, 2, &loads));
    assert_eq!(
        decided.to_string(),
        "lag in 1m is 0, 2 per replica: 0 replicas wanted; raised to 2 by min-replicas"
    );
    let decided = desired_replicas(&input(&scaling, 9, &loads));
    assert_eq!((decided.replicas, decided.limit), (4, Limit::Disruption(percent(50))));
    let given = ScalingInput { since_scaled: Some(Duration::from_secs(60)), ..input(&scaling, 9, &loads) };
    let decided = desired_replicas(&given);
    assert_eq!((decided.replicas, decided.limit), (9, Limit::Delay(Duration::from_secs(240))));
}

#[test]
fn what_is_known_scales_up_and_only_all_of_it_down() {
    let scaling = limits(0, 100, ALL);
    let away = Load { unknown: Some("no answer".into()), ..messages(0.0, 1.0) };
    for compatibility in [None, WPA] {
        let decide = |current, loads: &[Load]| {
            desired_replicas(&ScalingInput { compatibility, ..input(&scaling, current, loads) })
        };
        let decided = decide(3, &[away.clone(), messages(8.0, 1.0)]);
        assert_eq!(decided.replicas, 8, "{compatibility:?}");
        let decided = decide(3, &[away.clone(), messages(1.0, 1.0)]);
        assert_eq!(
            (decided.replicas, decided.limit),
            (3, Limit::Unknown("no answer".into())),
            "{compatibility:?}"
        );
        let decided = decide(3, std::slice::from_ref(&away));
        assert_eq!(decided.replicas, 3, "{compatibility:?}");
        for unusable in
            [messages(f64::NAN, 1.0), messages(f64::INFINITY, 1.0), messages(-1.0, 1.0), messages(5.0, 0.0)]
        {
            let decided = decide(3, &[unusable, messages(1.0, 1.0)]);
            assert_eq!((decided.replicas, decided.limit.code()), (3, "unknown"), "{compatibility:?}");
        }
    }
}

#[test]
fn messages_that_arrive_set_a_floor() {
    let scaling = Scaling { seconds_per_message: Some(0.5), ..limits(0, 100, ALL) };
    let loads = [messages(1.0, 20.0)];
    let given = ScalingInput { arriving_per_minute: Some(300.0), ..input(&scaling, 8, &loads) };
    let decided = desired_replicas(&given);
    assert_eq!((decided.replicas, decided.limit), (3, Limit::Throughput(3)));
}

/// A sentence for each limit: how many are wanted, and why not more or fewer.
#[test]
fn each_limit_has_its_sentence() {
    let sentence = |scaling: Scaling, current, loads: &[Load], since| {
        let since_scaled = Some(Duration::from_secs(since));
        desired_replicas(&ScalingInput { since_scaled, ..input(&scaling, current, loads) }).to_string()
    };
    let count = |value| messages(value, 20.0);
    let limited = |max| limits(0, max, ALL);
    let with_rate = Scaling { seconds_per_message: Some(0.5), ..limited(30) };
    let paused = Scaling { paused: true, ..limited(30) };
    let away = Load { unknown: Some("cannot read test://a: refused".into()), ..count(20.0) };
    let hidden = Load { not_shown: Some("test://a: set early-ack".into()), ..count(20.0) };
    for (scaling, current, load, since, expected) in [
        (limited(30), 0, count(95.0), 3600, "95 messages, 20 per replica: 5 replicas wanted"),
        (limited(30), 1, count(3.0), 3600, "3 messages, 20 per replica: 1 replica wanted"),
        (
            limited(30),
            0,
            messages(3.0, f64::MAX),
            3600,
            "3 messages, one replica for any number: 1 replica wanted",
        ),
        (
            limited(4),
            1,
            count(95.0),
            3600,
            "95 messages, 20 per replica: 5 replicas wanted; limited to 4 by max-replicas",
        ),
        (
            limited(30),
            5,
            count(105.0),
            3600,
            "105 messages, 20 per replica: 6 replicas wanted; stays at 5, within the tolerance",
        ),
        (
            limited(30),
            3,
            count(0.0),
            3600,
            "0 messages, 20 per replica: 0 replicas wanted; raised to 1, the minimum while awake",
        ),
        (
            limits(2, 30, ALL),
            3,
            count(0.0),
            3600,
            "0 messages, 20 per replica: 0 replicas wanted; raised to 2 by min-replicas",
        ),
        (
            limited(30),
            9,
            count(20.0),
            60,
            "20 messages, 20 per replica: 1 replica wanted; stays at 9 for another 4m by scale-down-delay",
        ),
        (
            limits(0, 30, percent(25)),
            9,
            count(20.0),
            3600,
            "20 messages, 20 per replica: 1 replica wanted; 6 for now: max-disruption lets one step down remove 25%",
        ),
        (
            limits(0, 30, Disruption::Replicas(2)),
            9,
            count(20.0),
            3600,
            "20 messages, 20 per replica: 1 replica wanted; 7 for now: max-disruption lets one step down remove 2",
        ),
        (
            limited(30),
            9,
            away.clone(),
            3600,
            "20 messages, 20 per replica: 1 replica wanted; stays at 9: cannot read test://a: refused",
        ),
        (
            limited(30),
            9,
            hidden,
            3600,
            "20 messages, 20 per replica: 1 replica wanted; stays at 9: test://a: set early-ack",
        ),
        (
            with_rate,
            9,
            count(20.0),
            3600,
            "20 messages, 20 per replica: 1 replica wanted; stays at 9: the number of arriving messages is unknown, which seconds-per-message needs; Redis lists and folders never show it: remove seconds-per-message for them",
        ),
        (
            paused,
            9,
            count(20.0),
            3600,
            "20 messages, 20 per replica: 1 replica wanted; stays at 9 while it is paused",
        ),
    ] {
        assert_eq!(sentence(scaling, current, &[load], since), expected);
    }
    let none = Load { unknown: Some("not read yet".into()), ..messages(f64::NAN, 20.0) };
    assert_eq!(
        sentence(limited(30), 9, &[none], 3600),
        "no value of its metrics is known; stays at 9: not read yet"
    );
    let both = [Load { not_shown: Some("never".into()), ..count(20.0) }, away];
    assert!(sentence(limited(30), 9, &both, 3600).ends_with("refused"), "what is wrong now comes first");
}

#[test]
fn a_paused_resource_keeps_its_number_and_is_woken() {
    for compatibility in [None, WPA] {
        let scaling = Scaling { paused: true, ..limits(2, 10, ALL) };
        let decide = |current, value| {
            let loads = [messages(value, 20.0)];
            desired_replicas(&ScalingInput { compatibility, ..input(&scaling, current, &loads) })
        };
        for (current, value) in [(5, 0.0), (5, 190.0), (1, 20.0), (20, 500.0)] {
            let decided = decide(current, value);
            assert_eq!((decided.replicas, decided.limit), (current, Limit::Paused), "{current}, {value}");
        }
        let woken = decide(0, 190.0);
        assert_eq!((woken.replicas, woken.has_work), (10, true), "{compatibility:?}");
    }
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..1e6,
        1 => any::<f64>(),
        1 => proptest::sample::select(vec![0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE]),
    ]
}

fn any_scaling() -> impl Strategy<Value = Scaling> {
    let disruption =
        prop_oneof![any::<u32>().prop_map(Disruption::Replicas), any::<u32>().prop_map(Disruption::Percent)];
    let few_or_any = || prop_oneof![0_u32..50, any::<u32>()];
    (few_or_any(), few_or_any(), disruption, proptest::option::of(any_number()), 0_u64..600).prop_map(
        |(min, max, disruption, seconds_per_message, delay)| Scaling {
            seconds_per_message,
            scale_down_delay: Duration::from_secs(delay),
            ..limits(min, max, disruption)
        },
    )
}

proptest! {
    /// Whatever comes in, the result is between the limits, and more messages never mean fewer replicas.
    #[test]
    fn the_result_is_within_the_limits_and_grows_with_the_messages(
        scaling in any_scaling(),
        current in prop_oneof![0_u32..60, any::<u32>()],
        (value, more) in (any_number(), any_number()),
        target in any_number(),
        arriving_per_minute in proptest::option::of(any_number()),
        idle_consumers in proptest::option::of(any::<u64>()),
        since in proptest::option::of(0_u64..1000),
        is_compatible in any::<bool>(),
    ) {
        let decide = |value| {
            let loads = [messages(value, target)];
            let compatibility = is_compatible.then_some(Compatibility::WorkerPodAutoscaler);
            let since_scaled = since.map(Duration::from_secs);
            let given = input(&scaling, current, &loads);
            desired_replicas(&ScalingInput { compatibility, arriving_per_minute, idle_consumers, since_scaled, ..given }).replicas
        };
        let replicas = decide(value);
        if is_compatible {
            // It lets one above the most wait for the delay.
            prop_assert!(replicas <= scaling.max_replicas.max(current));
        } else {
            prop_assert!(replicas <= scaling.max_replicas);
            let fewest = scaling.min_replicas.max(1).min(scaling.max_replicas);
            prop_assert!(replicas >= fewest || current == 0 && replicas == 0);
        }
        let usable = |value: f64| value.is_finite() && value >= 0.0;
        if usable(value) && usable(more) && !is_compatible {
            prop_assert!(decide(value.min(more)) <= decide(value.max(more)));
        }
    }
}
