//! Workers that fail, and workers that a command wakes.

use e2e::{Namespace, Workers, admin, brokers::Queue, until};
use serde_json::json;

use super::{NAMESPACE, allowed_hosts, site, until_empty, until_said};

/// What the autoscaler says while it does not start them.
const PAUSED: &str = "Replicas end by themselves: exited with status 7; to be started again in ";

#[tokio::test(flavor = "multi_thread")]
async fn a_command_wakes_workers_without_a_request() {
    let site = site("command-");
    let queue = Queue::folder(&site, "jobs");
    let hosts = allowed_hosts(&site, &[]);
    let namespace = Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}"));
    site.configure(&namespace.window("1m").workers(&Workers::new("mailer", &queue.uri())));
    let (dlx, autoscaler) = (site.dlx().await, site.autoscaler().await);
    until_empty(&autoscaler, "mailer").await;
    assert_eq!(site.replicas(NAMESPACE, "mailer"), 0);
    let body = json!({"namespace": NAMESPACE, "name": "mailer"});
    for _ in 0..2 {
        let answer = admin::post(dlx.admin(), "/api/v1/wake", &body).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(site.replicas(NAMESPACE, "mailer"), 1);
    }
    site.state_is(NAMESPACE, "mailer", "active").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_end_by_themselves_are_started_again_after_growing_pauses() {
    let site = site("ends-by-itself-");
    let queue = Queue::folder(&site, "jobs");
    let starts = site.folder().join("starts");
    // Later than a start that fails.
    let script = format!("echo start >> {}; sleep 0.5; exit 7", starts.display());
    let workers = Workers::new("mailer", &queue.uri()).command(&["sh", "-c", &script]).set("maxReplicas: 1");
    let hosts = allowed_hosts(&site, &[]);
    site.configure(&Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}")).workers(&workers));
    let autoscaler = site.autoscaler().await;
    until_empty(&autoscaler, "mailer").await;
    queue.put(9).await;
    let warning = "replicas are started again after growing pauses";
    until("the warning that they end again", || async {
        let log = autoscaler.log();
        if log.contains(warning) { Ok(()) } else { Err(log) }
    })
    .await;
    until_said(&autoscaler, "mailer", "is started again after a pause", |resource| {
        resource["scaling"]["reason"].as_str().is_some_and(|reason| reason.contains(PAUSED))
    })
    .await;
    let before = std::fs::read_to_string(&starts).unwrap().lines().count();
    until("the next start", || async {
        let now = std::fs::read_to_string(&starts).unwrap().lines().count();
        if now > before { Ok(()) } else { Err(format!("{now} starts")) }
    })
    .await;
    let log = autoscaler.log();
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_after_its_grace_period_is_a_warning() {
    let site = site("killed-");
    let queue = Queue::folder(&site, "jobs");
    let workers = Workers::new("mailer", &queue.uri())
        .command(&["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        .set("stopGracePeriod: 500ms");
    let hosts = allowed_hosts(&site, &[]);
    site.configure(&Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}")).workers(&workers));
    let autoscaler = site.autoscaler().await;
    until_empty(&autoscaler, "mailer").await;
    queue.put(1).await;
    site.replicas_are(NAMESPACE, "mailer", 1).await;
    queue.clear().await;
    site.state_is(NAMESPACE, "mailer", "asleep").await;
    until("the warning that it was killed", || async {
        let log = autoscaler.log();
        let killed = "killed after its stopGracePeriod: raise that, or let the process end at SIGTERM resource=demo/mailer";
        let is_warning =
            |line: &str| line.contains("WARN") && line.contains(killed) && line.contains("500ms");
        if log.lines().any(is_warning) { Ok(()) } else { Err(log) }
    })
    .await;
}
