//! Who does not answer is named in the metric.

use prometheus_client::{encoding::text::encode, registry::Registry};

use super::*;
use crate::testing::LONG;

#[tokio::test]
async fn the_metric_names_unreachable_dlxs_only() {
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::default();
    let metrics = AutoscalerMetrics::new(&mut registry);
    let timeouts = MemberTimeouts { activity: LONG, drain: LONG, margin: LONG };
    let members = Members::new(Coordinator::Files(state.path().to_owned()), None, timeouts, metrics);
    let series = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let unreachable = text.lines().filter(|line| line.starts_with("dlx_unreachable{"));
        unreachable.map(str::to_owned).collect::<Vec<_>>()
    };
    let unreachable = Unreachable { reason: "no answer within 5s".into() };

    members.record_answer("a", Some(&unreachable));
    members.record_answer("a", Some(&unreachable));
    members.record_answer("b", None);
    assert_eq!(series(), ["dlx_unreachable{dlx=\"a\"} 1"]);
    members.record_answer("a", None);
    assert!(series().is_empty());

    // Gone: not a member any more.
    members.record_answer("a", Some(&unreachable));
    assert!(members.read().await.unwrap().is_empty());
    assert!(series().is_empty());
}
