//! Workers of a queue, from zero to many and back, with real daemons, the real metric source and real brokers.

mod ends;
mod faults;
mod figures;
mod jobs;

use e2e::{
    Daemon, Namespace, Site, Workers,
    brokers::{Broker, Queue},
    until,
};
use serde_json::Value;

const NAMESPACE: &str = "demo";

/// A site with the metric source `queues`.
fn site(name: &str) -> Site {
    let site = Site::new(name);
    site.install_queues();
    site
}

/// These brokers, and the folders of the site, are allowed.
fn allowed_hosts(site: &Site, hosts: &[String]) -> String {
    let folder = format!("file://{}", site.folder().display());
    let hosts: Vec<_> = hosts.iter().cloned().chain([folder]).collect();
    format!("allowedHosts: {}", serde_json::to_string(&hosts).unwrap())
}

/// Waits until what the autoscaler says of a resource fulfils the condition.
async fn until_said(
    autoscaler: &Daemon,
    name: &str,
    what: &str,
    fulfilled: impl Fn(&Value) -> bool,
) -> Value {
    until(&format!("the autoscaler to say that {name} {what}"), || async {
        let resource = autoscaler.resource(NAMESPACE, name).await;
        if fulfilled(&resource) { Ok(resource) } else { Err(resource.to_string()) }
    })
    .await
}

/// Waits until the autoscaler has read the queue of these workers, and found nothing.
async fn until_empty(autoscaler: &Daemon, name: &str) {
    until_said(autoscaler, name, "has an empty queue", |resource| {
        resource["scaling"]["queues"][0]["waiting"] == 0
    })
    .await;
}

/// The changes of a resource's replicas that the autoscaler logged, in order: `0>1`, `1>4`, `5>0`.
fn logged_changes(autoscaler: &Daemon, name: &str) -> Vec<String> {
    let log = autoscaler.log();
    let of_it = log.lines().filter(|line| line.contains(&format!("resource={NAMESPACE}/{name} ")));
    let number = |line: &str, key: &str| {
        let (_, rest) = line.split_once(&format!(" {key}="))?;
        Some(rest.split(' ').next()?.to_owned())
    };
    let change = |line: &str| {
        if line.contains(": woke the resource ") {
            Some(format!("0>{}", number(line, "replicas")?))
        } else if line.contains(": scaled to zero ") {
            Some("to zero".to_owned())
        } else if line.contains(": scaled ") {
            Some(format!("{}>{}", number(line, "before")?, number(line, "replicas")?))
        } else {
            None
        }
    };
    of_it.filter_map(change).collect()
}

/// Of all sorts of queues. No DLX runs: workers need none.
#[tokio::test(flavor = "multi_thread")]
async fn workers_follow_their_queue_from_zero_to_many_and_back() {
    let site = site("workers-");
    let (beanstalkd, redis) = (Broker::beanstalkd(&site).await, Broker::redis(&site, &[]).await);
    let queues = [
        ("folder", Queue::folder(&site, "jobs")),
        ("tube", Queue::Tube(beanstalkd.port, "jobs".to_owned())),
        ("list", Queue::List(redis.port, "jobs".to_owned())),
        ("stream", Queue::stream(&redis, "events").await),
    ];
    let hosts = allowed_hosts(&site, &[beanstalkd.host(), redis.host()]);
    let mut namespace = Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}"));
    for (name, queue) in &queues {
        let mut workers = Workers::new(name, &queue.uri());
        if *name == "list" {
            // A list does not show what its workers have taken.
            workers = workers.set("earlyAck: accepted");
        }
        namespace = namespace.workers(&workers);
    }
    site.configure(&namespace);
    let autoscaler = site.autoscaler().await;
    let follow = async |name: &str, queue: &Queue| {
        until_empty(&autoscaler, name).await;
        assert_eq!(site.replicas(NAMESPACE, name), 0);
        // Two messages for each replica, five replicas at most.
        for (put, replicas) in [(1, 1), (7, 4), (20, 5)] {
            queue.put(put).await;
            site.replicas_are(NAMESPACE, name, replicas).await;
            assert_eq!(site.state(NAMESPACE, name), "active");
        }
        queue.clear().await;
        site.state_is(NAMESPACE, name, "asleep").await;
        assert_eq!(site.replicas(NAMESPACE, name), 0);
        until(&format!("all changes of {name} to be logged"), || async {
            let changes = logged_changes(&autoscaler, name);
            if changes == ["0>1", "1>4", "4>5", "to zero"] { Ok(()) } else { Err(format!("{changes:?}")) }
        })
        .await;
    };
    let [a, b, c, d] = &queues;
    tokio::join!(follow(a.0, &a.1), follow(b.0, &b.1), follow(c.0, &c.1), follow(d.0, &d.1));
    autoscaler.stop().await;
    drop((beanstalkd, redis));
    site.nothing_runs().await;
}

/// The broker shows that a message is being worked on: the last worker stays for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_worker_has_taken_keeps_it_awake() {
    let site = site("taken-");
    let beanstalkd = Broker::beanstalkd(&site).await;
    let queue = Queue::Tube(beanstalkd.port, "jobs".to_owned());
    let hosts = allowed_hosts(&site, &[beanstalkd.host()]);
    let workers = Workers::new("mailer", &queue.uri());
    site.configure(&Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}")).workers(&workers));
    let autoscaler = site.autoscaler().await;
    queue.put(1).await;
    let mut worker = beanstalkd.connect().await;
    site.replicas_are(NAMESPACE, "mailer", 1).await;
    worker.send("watch jobs").await;
    let reserved = worker.send("reserve").await;
    let id = reserved.split(' ').nth(1).expect("a job's number").to_owned();
    let resource = until_said(&autoscaler, "mailer", "is kept for the message", |resource| {
        let queue = &resource["scaling"]["queues"][0];
        queue["waiting"] == 0 && queue["in_flight"] == 1 && resource["code"] == "messages"
    })
    .await;
    assert_eq!(resource["decision"], "keep", "{resource}");
    // The first line is the job itself.
    assert_eq!(worker.send(&format!("delete {id}")).await, "x");
    site.state_is(NAMESPACE, "mailer", "asleep").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_end_at_once_have_failed_and_say_why() {
    let site = site("ends-");
    let queue = Queue::folder(&site, "jobs");
    let hosts = allowed_hosts(&site, &[]);
    let workers = Workers::new("mailer", &queue.uri()).command(&["sh", "-c", "echo no broker; exit 3"]);
    site.configure(&Namespace::new(NAMESPACE).queues(&format!("{{{hosts}}}")).workers(&workers));
    let autoscaler = site.autoscaler().await;
    until_empty(&autoscaler, "mailer").await;
    queue.put(1).await;
    site.state_is(NAMESPACE, "mailer", "failed").await;
    let record = site.record(NAMESPACE, "mailer");
    let reason = "exited with status 3; it last said: no broker";
    assert_eq!(
        (record["record"]["failed_wake"].as_str(), site.replicas(NAMESPACE, "mailer")),
        (Some(reason), 0)
    );
}
