//! Who does not answer is named in the metric.

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::*;
use crate::testing::LONG;

#[tokio::test]
async fn the_metric_names_who_is_silent_and_forgets_who_is_not() {
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let patience = Patience { activity: LONG, fence: LONG, margin: LONG };
    let members = Members::new(Coordination::Files(state.path().to_owned()), None, patience, metrics);
    let told = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let silent = text.lines().filter(|line| line.starts_with("member_silent{"));
        silent.map(str::to_owned).collect::<Vec<_>>()
    };
    let silent = Silent { reason: "no answer within 5s".into() };

    members.heard("a", Some(&silent));
    members.heard("a", Some(&silent));
    members.heard("b", None);
    assert_eq!(told(), ["member_silent{member=\"a\"} 1"]);
    members.heard("a", None);
    assert!(told().is_empty());

    // Gone: not a member any more.
    members.heard("a", Some(&silent));
    assert!(members.live().await.unwrap().is_empty());
    assert!(told().is_empty());
}
