//! Calls through the seam, of a plugin in order and of plugins that are not: the host goes on, and others are served.

mod common;

use std::time::Duration;

use common::{instance, wake};
use scaler_types::{ResourceId, Row, ScaleError, State, Version};

/// Longer than any call that is expected to end takes; what is expected not to end is cut off much sooner.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_plugin_in_order_is_called_with_every_method() {
    let bad = instance("{hosts: [bad.localhost], address: '127.0.0.1:9'}").await;
    assert_eq!((bad.kind(), bad.namespace()), ("misbehaving", "demo"));

    let first = bad.changes(0).await.unwrap();
    assert!(first.complete && first.cursor > 0);
    assert_eq!(first.resources[0].hosts, ["bad.localhost"]);
    let waiting = tokio::spawn({
        let bad = bad.clone();
        async move { bad.changes(first.cursor).await }
    });

    let id = ResourceId::new("demo", "bad");
    let draining = Row { state: State::Draining, ..Row::default() };
    let version = bad.compare_and_set(&id, &Version("0".to_owned()), &draining).await.unwrap();
    assert_eq!(
        bad.compare_and_set(&id, &Version("0".to_owned()), &draining).await,
        Err(ScaleError::Conflict)
    );
    assert_eq!(waiting.await.unwrap().unwrap().resources[0].row, draining);

    assert_eq!(bad.set_scale(&wake(LONG)).await, Err(ScaleError::Conflict));
    let mut request = wake(LONG);
    request.version = version;
    bad.set_scale(&request).await.unwrap();
    let resources = bad.get_resources().await.unwrap();
    assert_eq!((resources[0].replicas, resources[0].endpoints.len()), (1, 1));

    request.id.name = "other".to_owned();
    let terminal = bad.set_scale(&request).await.unwrap_err();
    assert_eq!(terminal, ScaleError::Terminal { reason: "there is no resource demo/other".to_owned() });
    assert_eq!(bad.get_config().await.unwrap(), None);
    assert_eq!(bad.resolve_service_name(&id).await.unwrap(), "127.0.0.1:9");
    bad.stop().await;
}
