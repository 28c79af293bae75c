//! The record as it is kept on its object: one annotation, in JSON, with what this plugin needs beside it.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry, jiff::Timestamp};
use scaler_types::{Phase, Record, ScaleEvent, Version, tolerant};
use serde::{Deserialize, Serialize};

use super::Owners;
use crate::ascii;

/// The annotation.
pub(crate) const ANNOTATION: &str = "scaler.dev/state";

/// The content of the annotation.
///
/// A daemon of an earlier version that writes it drops the fields that it does not know: a field that is added has to be one whose
/// loss does no harm, or the record gets a new format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredState {
    #[serde(flatten)]
    pub(crate) record: Record,
    /// The uid of the object it was written on. On another object, as after a restore from a backup, only the record and
    /// the obeyed `sleep-now` and `wake-now` are valid: those annotations came with it.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    /// The object's generation after this was written. Another one there: it was changed since (its specification;
    /// of a Deployment, its annotations too), or brought back an old annotation.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<i64>,
    /// Its specification without the replicas, as a fingerprint: another one there is an update.
    #[serde(
        rename = "spec_hash",
        default,
        deserialize_with = "tolerant::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) spec: Option<String>,
    /// How often it was scaled to zero: a reader that sees another number has missed that once.
    #[serde(default, deserialize_with = "tolerant::or_default")]
    pub(crate) sleeps: u32,
    /// At zero: how many replicas there were before. Believed only if `generation` fits, or did when it was seen first,
    /// or if an intercepted Service has this record's nonce.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) replicas: Option<u32>,
    /// Who owned the replicas (`metadata.managedFields`) when Scaler wrote them: if that daemon ends before it has
    /// restored them, another one does.
    #[serde(
        rename = "managed_fields",
        default,
        deserialize_with = "tolerant::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) owners: Vec<ManagedFieldsEntry>,
    /// The value of `scaler.dev/sleep-now` that has been obeyed, as a fingerprint.
    #[serde(
        rename = "sleep_now_hash",
        default,
        deserialize_with = "tolerant::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) sleep_now: Option<String>,
    /// The value of `scaler.dev/wake-now` that has been obeyed, as a fingerprint.
    #[serde(
        rename = "wake_now_hash",
        default,
        deserialize_with = "tolerant::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) wake_now: Option<String>,
    /// The last thing that happened to its scale.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) event: Option<ScaleEvent>,
    /// When, in RFC 3339 by the writer's clock; only shown.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) event_time: Option<String>,
    /// When Scaler last changed the replicas, in seconds since 1970 by the writer's clock.
    #[serde(default, deserialize_with = "tolerant::option", skip_serializing_if = "Option::is_none")]
    pub(crate) last_scaled: Option<u64>,
}

/// An annotation that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {ANNOTATION} is not valid ({0}); it is ignored and will be overwritten")]
pub(crate) struct UnreadableState(String);

/// The change that a write makes to the kept state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordChange<'a> {
    /// The record to write.
    pub(crate) record: &'a Record,
    pub(crate) uid: &'a str,
    /// The generation the object will have.
    pub(crate) generation: i64,
    /// The replicas it has now.
    pub(crate) replicas: u32,
    /// At zero: the replicas it had before, where the record of them is valid.
    pub(crate) before: Option<u32>,
    /// The replicas it will have.
    pub(crate) target: u32,
    pub(crate) owners: &'a Owners,
    /// The value of `scaler.dev/sleep-now` now.
    pub(crate) sleep_now: Option<&'a str>,
    /// The value of `scaler.dev/wake-now` now.
    pub(crate) wake_now: Option<&'a str>,
    /// Its specification, as a fingerprint.
    pub(crate) spec: &'a str,
    pub(crate) now: Timestamp,
}

// === impl StoredState ===

impl StoredState {
    /// Reads an annotation. One with a record of a later format is kept as it is: it is to be left alone.
    ///
    /// # Errors
    ///
    /// It is not JSON, or not a record's.
    pub(crate) fn parse(text: &str) -> Result<Self, UnreadableState> {
        serde_json::from_str(text).or_else(|error| {
            let later = Record::parse_later(text).ok_or_else(|| UnreadableState(error.to_string()))?;
            Ok(Self { record: later, ..Self::default() })
        })
    }

    /// The part of it that is valid on the object of that uid.
    pub(crate) fn restrict_to(self, uid: &str) -> Self {
        match &self.uid {
            Some(written_on) if written_on != uid => {
                let Self { record, sleep_now, wake_now, .. } = self;
                Self { record, sleep_now, wake_now, ..Self::default() }
            }
            _ => self,
        }
    }

    pub(crate) fn text(&self) -> String {
        ascii::text(self)
    }

    /// Whether this value of `scaler.dev/sleep-now` has been obeyed.
    pub(crate) fn has_slept(&self, value: &str) -> bool {
        self.sleep_now.as_deref().is_some_and(|kept| kept == fingerprint(value))
    }

    /// Whether this value of `scaler.dev/wake-now` has been obeyed.
    pub(crate) fn has_woken(&self, value: &str) -> bool {
        self.wake_now.as_deref().is_some_and(|kept| kept == fingerprint(value))
    }

    /// Whether it was brought back: both were found at zero replicas, `known` first, and this was written before that. Every record
    /// since counts how often it was scaled to zero; and a workload that another writer scaled to zero is not marked asleep.
    pub(crate) fn is_older_than(&self, known: &Self) -> bool {
        let slept_since = self.sleeps < known.sleeps;
        let scaled_by_others = matches!(known.record.phase, Phase::Active | Phase::Draining);
        self.record.format <= Record::FORMAT
            && known.record.format <= Record::FORMAT
            && (slept_since
                || self.sleeps == known.sleeps && scaled_by_others && self.record.phase == Phase::Asleep)
    }

    /// Whether it was written on the object as it is.
    pub(crate) fn matches_generation(&self, generation: i64) -> bool {
        self.generation == Some(generation)
    }

    /// The record to write instead.
    pub(crate) fn apply(&self, change: RecordChange<'_>) -> Self {
        let RecordChange { record, uid, generation, replicas, before, target, owners, spec, now, .. } =
            change;
        let event = match (self.record.phase, record.phase) {
            (Phase::Waking | Phase::Asleep | Phase::Failed, Phase::Active) => {
                Some(ScaleEvent::ScaleFromZeroCompleted)
            }
            // The same sleep is written again.
            (Phase::Asleep, Phase::Asleep) => None,
            (_, Phase::Waking) => Some(ScaleEvent::ScaleFromZeroStarted),
            (_, Phase::Asleep) => Some(ScaleEvent::ScaleToZeroCompleted),
            // A drain and its revert are no change of the scale.
            _ => None,
        };
        // The replicas are known while it runs; at zero only this field records them.
        let before = if replicas > 0 { Some(replicas) } else { before };
        Self {
            record: record.clone(),
            uid: Some(uid.to_owned()),
            generation: Some(generation),
            spec: Some(spec.to_owned()),
            sleeps: self.sleeps.wrapping_add(u32::from(target == 0 && replicas > 0)),
            replicas: before.filter(|_| target == 0),
            owners: if target != replicas || owners.scaler { owners.others.clone() } else { Vec::new() },
            // At zero, and on the way from it, the wish was granted.
            sleep_now: match record.phase {
                Phase::Asleep | Phase::Waking => change.sleep_now.map(fingerprint),
                // A wake by the leader, which is never `waking`.
                Phase::Active if replicas == 0 && target > 0 => change.sleep_now.map(fingerprint),
                _ => self.sleep_now.clone(),
            },
            // Awake, or after an attempt to wake it, the wish was granted.
            wake_now: match record.phase {
                Phase::Asleep => self.wake_now.clone(),
                _ => change.wake_now.map(fingerprint),
            },
            event: event.or(self.event),
            event_time: event.map(|_| now.to_string()).or_else(|| self.event_time.clone()),
            last_scaled: match target != replicas {
                true => now.as_second().try_into().ok(),
                false => self.last_scaled,
            },
        }
    }
}

/// FNV-1a: the same in every process and build.
pub(crate) fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The version of an object: it changes whenever its record or its scale does, and not with its status.
pub(crate) fn version(uid: &str, generation: i64, record: Option<&str>) -> Version {
    Version(match record {
        Some(record) => format!("{uid}/{generation}/{record}"),
        None => format!("{uid}/{generation}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaler_types::Nonce;

    use super::*;

    fn record(state: Phase, nonce: u64) -> Record {
        Record { phase: state, nonce: Nonce(nonce), reason: "idle for 10m".to_owned(), ..Record::default() }
    }

    fn change(record: &Record, generation: i64, replicas: u32, target: u32) -> RecordChange<'_> {
        let now = Timestamp::constant(1_767_225_600, 0);
        static NOBODY: Owners = Owners { others: Vec::new(), scaler: false };
        let (uid, before, owners, spec) = ("u", Some(3), &NOBODY, "f");
        let (sleep_now, wake_now) = (Some("1"), Some("a"));
        RecordChange {
            record,
            uid,
            generation,
            replicas,
            before,
            target,
            owners,
            sleep_now,
            wake_now,
            spec,
            now,
        }
    }

    #[test]
    fn to_zero_and_back() {
        let active = StoredState::default();
        let draining = active.apply(change(&record(Phase::Draining, 1), 4, 3, 3));
        assert_eq!((draining.replicas, draining.event, draining.sleep_now.clone()), (None, None, None));
        let asleep = draining.apply(change(&record(Phase::Asleep, 1), 5, 3, 0));
        assert_eq!(
            (asleep.replicas, asleep.matches_generation(5), asleep.matches_generation(6)),
            (Some(3), true, false)
        );
        assert_eq!((asleep.event, asleep.sleeps), (Some(ScaleEvent::ScaleToZeroCompleted), 1));
        assert!(asleep.has_slept("1") && !asleep.has_slept("2") && !draining.has_slept("1"));
        assert!(draining.has_woken("a") && asleep.has_woken("a") && !asleep.has_woken("b"));
        let committed = record(Phase::Asleep, 1);
        let wishes = RecordChange { wake_now: Some("b"), ..change(&committed, 5, 3, 0) };
        assert!(!draining.apply(wishes).has_woken("b"), "made during the drain, it is obeyed after it");
        for phase in [Phase::Active, Phase::Waking, Phase::Failed] {
            let record = record(phase, 2);
            let woken = RecordChange { wake_now: Some("b"), ..change(&record, 6, 0, 3) };
            assert!(asleep.apply(woken).has_woken("b"), "{phase}");
        }
        // Another record at zero: the replicas are carried over only if they were valid.
        let failed = record(Phase::Failed, 2);
        assert_eq!(asleep.apply(change(&failed, 5, 0, 0)).replicas, Some(3));
        let unconfirmed = RecordChange { before: None, ..change(&failed, 6, 0, 0) };
        assert_eq!(asleep.apply(unconfirmed).replicas, None);
        let later = Timestamp::constant(1_767_225_700, 0);
        assert_eq!(asleep.last_scaled, Some(1_767_225_600));
        assert_eq!(draining.last_scaled, None, "no change of the replicas");
        let again = asleep.apply(RecordChange { now: later, ..change(&record(Phase::Asleep, 1), 7, 0, 0) });
        assert_eq!((again.replicas, again.sleeps, again.event_time), (Some(3), 1, asleep.event_time.clone()));
        assert_eq!(again.last_scaled, asleep.last_scaled);
        let waking = asleep.apply(change(&record(Phase::Waking, 3), 6, 0, 3));
        let unchanged = record(Phase::Waking, 3);
        let resized = RecordChange { now: later, ..change(&unchanged, 7, 3, 5) };
        assert_eq!(waking.apply(resized).last_scaled, Some(1_767_225_700));
        assert_eq!((waking.replicas, waking.event), (None, Some(ScaleEvent::ScaleFromZeroStarted)));
        let active = record(Phase::Active, 3);
        let by_leader = RecordChange { sleep_now: Some("2"), ..change(&active, 6, 0, 2) };
        let woken = asleep.apply(by_leader);
        assert_eq!((woken.replicas, woken.event), (None, Some(ScaleEvent::ScaleFromZeroCompleted)));
        assert!(woken.has_slept("2"), "it was asleep when that was wished");
        let up = waking.apply(change(&record(Phase::Active, 4), 6, 3, 3));
        assert_eq!(up.event, Some(ScaleEvent::ScaleFromZeroCompleted));
        let reverted = up.apply(change(&record(Phase::Draining, 5), 6, 3, 3)).apply(change(
            &record(Phase::Active, 6),
            6,
            3,
            3,
        ));
        assert_eq!(reverted.event, up.event, "a drain that was reverted is no event");
    }

    /// A backup's record is on an object of another uid. A version before this one wrote none.
    #[test]
    fn on_another_object_its_record_is_believed_and_what_it_obeyed() {
        let asleep = StoredState::default().apply(change(&record(Phase::Asleep, 1), 5, 3, 0));
        assert_eq!(asleep.clone().restrict_to("u"), asleep);
        let restored = asleep.clone().restrict_to("v");
        let (sleep_now, wake_now) = (asleep.sleep_now.clone(), asleep.wake_now.clone());
        let record = asleep.record.clone();
        assert_eq!(restored, StoredState { record, sleep_now, wake_now, ..StoredState::default() });
        assert!(restored.has_slept("1"), "the annotation scaler.dev/sleep-now is in the backup, too");
        let older = StoredState { uid: None, ..asleep };
        assert_eq!(older.clone().restrict_to("v"), older);
    }

    #[test]
    fn an_older_record_counts_fewer_sleeps_or_sleeps_where_somebody_else_scaled() {
        use Phase::{Active, Asleep, Draining, Failed, Waking};
        let kept = |state, sleeps| StoredState { record: record(state, 1), sleeps, ..StoredState::default() };
        for state in [Active, Draining, Asleep, Waking, Failed] {
            assert!(kept(state, 1).is_older_than(&kept(Asleep, 2)), "{state}");
            assert!(!kept(state, 2).is_older_than(&kept(Asleep, 2)), "{state}");
            assert!(!kept(state, 3).is_older_than(&kept(Asleep, 2)), "{state}");
        }
        assert!(
            kept(Asleep, 2).is_older_than(&kept(Active, 2))
                && kept(Asleep, 2).is_older_than(&kept(Draining, 2))
        );
        assert!(
            !kept(Asleep, 3).is_older_than(&kept(Active, 2))
                && !kept(Waking, 2).is_older_than(&kept(Active, 2))
        );
        // A later version's is its own business.
        let later = StoredState::parse(r#"{"phase":"dreaming","format":2}"#).unwrap();
        assert!(!later.is_older_than(&kept(Asleep, 2)) && !kept(Asleep, 0).is_older_than(&later));
    }

    #[test]
    fn an_unreadable_record_is_distinguished_from_a_later_format() {
        for text in ["", "{", "[]", "{}", r#"{"phase":7}"#, r#"{"phase":"active","nonce":7}"#] {
            assert!(StoredState::parse(text).is_err(), "{text}");
        }
        for text in [
            r#"{"phase":"dreaming","format":2}"#,
            r#"{"phase":"asleep","nonce":"7","format":2,"more":{"a":[1]}}"#,
        ] {
            assert_eq!(StoredState::parse(text).unwrap().record.format, 2, "{text}");
        }
        for (text, phase) in [
            (r#"{"phase":"asleep","nonce":7,"format":2}"#, Phase::Asleep),
            (r#"{"phase":"dreaming","format":2}"#, Phase::Active),
            // Its phase is of a later version, whatever it says of its format.
            (r#"{"phase":"dreaming"}"#, Phase::Active),
            (r#"{"phase":"asleep","nonce":7,"format":"2.1"}"#, Phase::Asleep),
        ] {
            let Record { phase: read, format, .. } = StoredState::parse(text).unwrap().record;
            assert!(read == phase && format > Record::FORMAT, "{text}");
        }
    }

    #[test]
    fn a_value_of_a_later_version_costs_that_field_only() {
        let text = r#"{"phase":"asleep","nonce":"7","format":1,"sleeps":3,"replicas":2,"event":"scaleToZeroFailed","managed_fields":[7]}"#;
        let read = StoredState::parse(text).unwrap();
        assert_eq!((read.record.phase, read.sleeps, read.replicas), (Phase::Asleep, 3, Some(2)));
        assert_eq!((read.event, read.owners), (None, Vec::new()));
    }

    fn kept() -> impl Strategy<Value = StoredState> {
        let states = [Phase::Active, Phase::Draining, Phase::Asleep, Phase::Waking, Phase::Failed];
        let record = (prop::sample::select(states.to_vec()), any::<u64>(), any::<String>(), 0..3_u32)
            .prop_map(|(state, nonce, reason, format)| {
                let failed_wake = reason.chars().rev().collect();
                Record { phase: state, nonce: Nonce(nonce), reason, failed_wake, format }
            });
        (record, any::<Option<i64>>(), any::<Option<u32>>(), any::<Option<String>>(), any::<bool>()).prop_map(
            |(record, generation, replicas, sleep_now, event)| StoredState {
                record,
                uid: sleep_now.clone(),
                generation,
                sleeps: replicas.unwrap_or(7),
                spec: sleep_now.clone(),
                owners: sleep_now
                    .iter()
                    .map(|manager| ManagedFieldsEntry {
                        manager: Some(manager.clone()),
                        ..ManagedFieldsEntry::default()
                    })
                    .collect(),
                replicas,
                event: event.then_some(ScaleEvent::ScaleToZeroCompleted),
                event_time: sleep_now.clone(),
                wake_now: sleep_now.clone(),
                last_scaled: replicas.map(u64::from),
                sleep_now,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(kept in kept()) {
            prop_assert_eq!(StoredState::parse(&kept.text()), Ok(kept));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = StoredState::parse(&text);
        }

        #[test]
        fn versions_differ_when_anything_does(a in kept(), b in kept(), x: i64, y: i64) {
            let same = a.text() == b.text() && x == y;
            prop_assert_eq!(version("u", x, Some(&a.text())) == version("u", y, Some(&b.text())), same);
            prop_assert_ne!(version("u", x, None), version("u", x, Some(&a.text())));
        }
    }
}
