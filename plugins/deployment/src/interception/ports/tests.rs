use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::index::QUARANTINE;

const RANGE: ServicePorts = ServicePorts { first: 20000, last: 20003 };

fn holder(name: &str) -> PortHolder {
    PortHolder {
        namespace: "shop".to_owned(),
        service: name.to_owned(),
        uid: format!("uid-{name}"),
        port: "http".to_owned(),
    }
}

/// A port for one alone.
fn claim(draft: &mut PortDraft<'_>, name: &str, freed_at: &str) -> Option<u16> {
    Some(draft.claim(&[holder(name)], freed_at)?[0])
}

/// As the API has it after the draft was written.
fn written(draft: &PortDraft<'_>) -> PortRegistry {
    let map = ConfigMap { data: Some(draft.data()), ..ConfigMap::default() };
    PortRegistry::from(map)
}

#[test]
fn each_service_has_a_port_of_its_own_and_keeps_it() {
    let (empty, quarantine, now) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, now);
    let ports: Vec<_> = ["a", "b", "c", "d"].map(|name| claim(&mut draft, name, "now")).into();
    let mut sorted = ports.clone();
    sorted.sort();
    assert_eq!(sorted, RANGE.all().map(Some).collect::<Vec<_>>());
    assert_eq!(claim(&mut draft, "e", "now"), None, "there are four");
    let mut three = PortDraft::new(&empty, RANGE, &quarantine, now);
    assert_eq!(three.claim(&["a", "b", "c", "d", "e"].map(holder), "now"), None);
    assert!(!three.is_new(), "all of a Service's ports or none");
    assert_eq!(three.claim(&["a", "b", "c", "d"].map(holder), "now").unwrap().len(), 4);
    assert_eq!(claim(&mut draft, "b", "now"), ports[1]);
    let full = written(&draft);
    assert_eq!(full.held(&holder("b"), RANGE), ports[1]);
    assert!(has_room_for(&full, &[holder("a"), holder("d")], RANGE, &quarantine, now), "they have theirs");
    assert!(!has_room_for(&full, &[holder("a"), holder("e")], RANGE, &quarantine, now));
    assert_eq!(claim(&mut PortDraft::new(&full, RANGE, &quarantine, now), "c", "now"), ports[2]);
}

#[test]
fn a_freed_port_is_quarantined() {
    let (empty, mut quarantine, start) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, start);
    for name in ["a", "b", "c", "d"] {
        claim(&mut draft, name, "t0");
    }
    let port = claim(&mut draft, "a", "t0");
    draft.free("t1", |holder| holder.service == "a");
    let freed = written(&draft);
    assert_eq!(freed.held(&holder("a"), RANGE), None);
    assert_eq!(freed.entries_of("uid-a").count(), 1, "it stands there still");
    quarantine.follow(&freed, start);
    let after = |quarantine: &PortQuarantine, name: &str, after: Duration| {
        let now = start + after;
        let room = has_room_for(&freed, &[holder(name)], RANGE, quarantine, now);
        let port = claim(&mut PortDraft::new(&freed, RANGE, quarantine, now), name, "t2");
        assert_eq!(room, port.is_some(), "{name}");
        port
    };
    assert_eq!(after(&quarantine, "a", Duration::ZERO), port, "its own it may have back");
    assert_eq!(after(&quarantine, "e", QUARANTINE - Duration::from_secs(1)), None);
    assert_eq!(after(&quarantine, "e", QUARANTINE), port);
    // Seen again as it was: since then. Freed another time: from then on.
    quarantine.follow(&freed, start + QUARANTINE);
    assert_eq!(after(&quarantine, "e", QUARANTINE), port);
    let mut again = PortDraft::new(&freed, RANGE, &quarantine, start);
    claim(&mut again, "a", "t3");
    again.free("t4", |holder| holder.service == "a");
    let again = written(&again);
    quarantine.follow(&again, start + QUARANTINE);
    assert_eq!(claim(&mut PortDraft::new(&again, RANGE, &quarantine, start + QUARANTINE), "e", "t5"), None);
    let fresh = PortQuarantine::default();
    assert_eq!(
        after(&fresh, "e", QUARANTINE * 2),
        None,
        "a process that has not observed that it was freed waits"
    );
}

#[test]
fn a_freed_port_is_forgotten_in_the_end() {
    let (empty, mut quarantine, start) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, start);
    claim(&mut draft, "a", "t0");
    claim(&mut draft, "b", "t0");
    draft.free("t1", |holder| holder.service == "a");
    let registry = written(&draft);
    quarantine.follow(&registry, start);
    let mut early = PortDraft::new(&registry, RANGE, &quarantine, start);
    early.prune();
    assert!(!early.is_new());
    let mut late = PortDraft::new(&registry, RANGE, &quarantine, start + QUARANTINE);
    late.prune();
    assert!(late.is_new());
    assert_eq!(written(&late).entries().map(|(_, entry)| &*entry.holder.service).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn outside_of_a_changed_range_it_is_given_up_and_another_taken() {
    let (empty, quarantine, now) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, now);
    let old = claim(&mut draft, "a", "t0").unwrap();
    let registry = written(&draft);
    let moved = ServicePorts { first: 30000, last: 30001 };
    assert_eq!(registry.held(&holder("a"), moved), None);
    let mut draft = PortDraft::new(&registry, moved, &quarantine, now);
    let new = claim(&mut draft, "a", "t1").unwrap();
    assert!(moved.contains(new));
    let registry = written(&draft);
    assert_eq!(registry.get(old).unwrap().freed_at.as_deref(), Some("t1"), "it is served for a while yet");
    assert_eq!(registry.held(&holder("a"), moved), Some(new));
}

#[test]
fn what_is_in_use_is_known_again_and_never_taken_from_another() {
    let (empty, quarantine, now) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, now);
    draft.restore(20002, &holder("a"));
    draft.restore(20002, &holder("b"));
    draft.restore(20003, &holder("a"));
    draft.restore(19000, &holder("c"));
    let registry = written(&draft);
    assert_eq!(registry.held(&holder("a"), RANGE), Some(20002));
    assert_eq!(registry.entries().count(), 1);
    assert_ne!(claim(&mut PortDraft::new(&registry, RANGE, &quarantine, now), "b", "t"), Some(20002));
    // A port that another gave back, and that is in use.
    let mut draft = PortDraft::new(&registry, RANGE, &quarantine, now);
    draft.free("t", |_| true);
    draft.restore(20002, &holder("b"));
    assert_eq!(written(&draft).held(&holder("b"), RANGE), Some(20002));
}

#[test]
fn a_lost_registry_is_made_again_with_the_same_ports() {
    let wide = ServicePorts { first: 20000, last: 21999 };
    let (empty, quarantine, now) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    let in_turn = |names: &[&str]| {
        let mut draft = PortDraft::new(&empty, wide, &quarantine, now);
        names.iter().map(|name| claim(&mut draft, name, "t").unwrap()).collect::<Vec<_>>()
    };
    let (mut one, other) = (in_turn(&["a", "b", "c"]), in_turn(&["c", "b", "a"]));
    one.reverse();
    assert_eq!(one, other, "whoever comes first");
}

#[test]
fn an_unreadable_port_entry_is_left_alone() {
    let data =
        BTreeMap::from([("20000".to_owned(), "mine".to_owned()), ("README".to_owned(), "!".to_owned())]);
    let registry = PortRegistry::from(ConfigMap { data: Some(data), ..ConfigMap::default() });
    let (quarantine, now) = (PortQuarantine::default(), Instant::now());
    let one = ServicePorts { first: 20000, last: 20000 };
    assert!(!has_room_for(&registry, &[holder("a")], one, &quarantine, now));
    let mut draft = PortDraft::new(&registry, one, &quarantine, now);
    draft.restore(20000, &holder("a"));
    assert_eq!(claim(&mut draft, "a", "t"), None);
    draft.prune();
    draft.free("t", |_| true);
    assert!(!draft.is_new());
}

#[test]
fn a_change_is_one_patch_on_what_it_was_made_on() {
    let entry = PortEntry::held_by(&holder("a")).text();
    let map = ConfigMap {
        metadata: serde_json::from_value(json!({"resourceVersion": "7"})).unwrap(),
        data: Some(BTreeMap::from([("20001".to_owned(), entry), ("20003".to_owned(), "?".to_owned())])),
        ..ConfigMap::default()
    };
    let registry = PortRegistry::from(map);
    let (quarantine, now) = (PortQuarantine::default(), Instant::now());
    let mut draft = PortDraft::new(&registry, RANGE, &quarantine, now);
    draft.free("t1", |_| true);
    let operations = draft.patch();
    assert_eq!(operations[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}));
    assert_eq!(operations.as_array().unwrap().len(), 3, "{operations}");
    assert_eq!(operations[2], json!({"op": "add", "path": "/data/intercepted", "value": "0"}));
    assert_eq!(operations[1]["path"], "/data/20001");
    assert!(operations[1]["value"].as_str().unwrap().contains(r#""freed_at":"t1""#), "{operations}");
    let bare = PortRegistry::default();
    let operations = PortDraft::new(&bare, RANGE, &quarantine, now).patch();
    assert_eq!(operations[1], json!({"op": "add", "path": "/data", "value": {}}));
}

#[test]
fn the_services_that_hold_a_port_are_counted_with_each_write() {
    let (empty, quarantine, now) = (PortRegistry::default(), PortQuarantine::default(), Instant::now());
    assert!(
        !PortDraft::new(&empty, RANGE, &quarantine, now).is_new(),
        "no ConfigMap is made to say that there are none"
    );
    let mut draft = PortDraft::new(&empty, RANGE, &quarantine, now);
    let two_ports = ["http", "admin"].map(|port| PortHolder { port: port.to_owned(), ..holder("a") });
    draft.claim(&two_ports, "t0").unwrap();
    claim(&mut draft, "b", "t0");
    assert_eq!(draft.data()[INTERCEPTED], "2", "Services, and not their ports");
    let registry = written(&draft);
    assert!(registry.is_counted() && !PortDraft::new(&registry, RANGE, &quarantine, now).is_new());
    let mut draft = PortDraft::new(&registry, RANGE, &quarantine, now);
    draft.free("t1", |holder| holder.service == "a");
    assert_eq!(draft.data()[INTERCEPTED], "1", "a freed port is listed, and does not count");
    let last = draft.patch().as_array().unwrap().last().cloned();
    assert_eq!(last, Some(json!({"op": "add", "path": "/data/intercepted", "value": "1"})));
    // Not there, as an earlier version leaves it, or wrong: written by whatever is written next.
    for said in [None, Some("0"), Some("7"), Some("many")] {
        let mut data = draft.data();
        data.remove(INTERCEPTED);
        data.extend(said.map(|said| (INTERCEPTED.to_owned(), said.to_owned())));
        let registry = PortRegistry::from(ConfigMap { data: Some(data), ..ConfigMap::default() });
        assert!(!registry.is_counted(), "{said:?}");
        let next = PortDraft::new(&registry, RANGE, &quarantine, now);
        assert!(next.is_new(), "{said:?}");
        assert_eq!(next.data()[INTERCEPTED], "1", "{said:?}");
    }
}
