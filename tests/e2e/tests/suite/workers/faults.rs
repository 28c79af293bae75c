//! Missing data changes nothing: brokers that fail in every way, while the autoscaler is killed.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use e2e::{
    Daemon, Namespace, Site, Workers,
    broker_proxy::{Behaviour, BrokerProxy},
    brokers::{Broker, Queue},
};
use serde_json::Value;

use super::{NAMESPACE, allowed_hosts, site, until_empty, until_said};

/// Two queues of one broker, each with workers: one has messages and workers for them, the other is empty and its workers sleep.
struct Pair {
    name: &'static str,
    busy: Queue,
    empty: Queue,
}

impl Pair {
    fn new(name: &'static str, queue: impl Fn(&str) -> Queue) -> Self {
        Self { name, busy: queue("busy"), empty: queue("empty") }
    }

    fn names(&self) -> [String; 2] {
        [format!("{}-busy", self.name), format!("{}-empty", self.name)]
    }

    /// Both workers, whose broker is reached at this port.
    fn workers(&self, port: u16) -> [Workers; 2] {
        let [busy, empty] = self.names();
        let workers = |name: &str, queue: &Queue| {
            Workers::new(name, &queue.uri_at(port)).set("earlyAck: accepted").set("scaleDownDelay: 1s")
        };
        [workers(&busy, &self.busy), workers(&empty, &self.empty)]
    }

    /// Three replicas for six messages, and none for none.
    async fn begin(&self, site: &Site, autoscaler: &Daemon) {
        let [busy, empty] = self.names();
        self.busy.put(6).await;
        site.replicas_are(NAMESPACE, &busy, 3).await;
        until_empty(autoscaler, &empty).await;
    }

    /// The work of the one is done, and the other has some.
    async fn swap(&self) {
        self.busy.clear().await;
        self.empty.put(6).await;
    }

    /// Both records.
    fn records(&self, site: &Site) -> [Value; 2] {
        self.names().map(|name| site.record(NAMESPACE, &name))
    }

    /// Until the autoscaler has no reading of the queues, and says so.
    async fn until_unknown(&self, autoscaler: &Daemon) {
        for name in self.names() {
            until_said(autoscaler, &name, "has a queue that cannot be read", |resource| {
                resource["scaling"]["queues"][0]["error"].is_string()
            })
            .await;
        }
        until_said(autoscaler, &self.names()[0], "is kept as it is not known to be idle", |resource| {
            resource["decision"] == "keep" && resource["code"] == "queue_unknown"
        })
        .await;
    }

    /// Until what it knows is what [`swap`](Self::swap) made of it.
    async fn until_followed(&self, site: &Site) {
        let [busy, empty] = self.names();
        site.replicas_are(NAMESPACE, &empty, 3).await;
        site.state_is(NAMESPACE, &busy, "asleep").await;
    }
}

fn write_password(file: &Path, password: &str) {
    let draft = file.with_extension("draft");
    fs::write(&draft, password).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(draft, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_fail_change_nothing_and_the_others_are_followed() {
    let site = site("faults-");
    let mut stopped = Broker::beanstalkd(&site).await;
    let (beanstalkd, redis) = (Broker::beanstalkd(&site).await, Broker::redis(&site, &[]).await);
    let guarded = Broker::redis(&site, &[]).await;
    let mut admin = guarded.connect().await;
    let login = "ACL SETUSER scaler on >right ~* +llen +select +ping";
    assert_eq!(admin.send(login).await, "+OK");
    let (user, password) = (site.folder().join("user"), site.folder().join("password"));
    write_password(&user, "scaler");
    write_password(&password, "right");
    let (refusing, slow, nonsense) = (
        BrokerProxy::start(redis.port).await,
        BrokerProxy::start(beanstalkd.port).await,
        BrokerProxy::start(redis.port).await,
    );
    let tube = |port: u16, name: &str| Queue::Tube(port, name.to_owned());
    let list = |port: u16, name: &str| Queue::List(port, name.to_owned());
    let pairs = [
        (Pair::new("stopped", |name| tube(stopped.port, name)), stopped.port),
        (Pair::new("refusing", |name| list(redis.port, &format!("refusing-{name}"))), refusing.port),
        (Pair::new("slow", |name| tube(beanstalkd.port, name)), slow.port),
        (Pair::new("nonsense", |name| list(redis.port, &format!("nonsense-{name}"))), nonsense.port),
        (Pair::new("credentials", |name| list(guarded.port, name)), guarded.port),
    ];
    let healthy = Pair::new("healthy", |name| Queue::folder(&site, name));
    let hosts: Vec<_> = pairs.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let section = format!(
        "{{{}, credentials: {{\"{}\": {{usernameFile: {}, passwordFile: {}}}}}}}",
        allowed_hosts(&site, &hosts),
        guarded.host(),
        user.display(),
        password.display()
    );
    let mut namespace = Namespace::new(NAMESPACE).queues(&section);
    for (pair, port) in pairs.iter().chain([&(Pair::new("healthy", |name| Queue::folder(&site, name)), 0)]) {
        for workers in pair.workers(*port) {
            namespace = namespace.workers(&workers);
        }
    }
    site.configure(&namespace);
    let mut first = site.autoscaler().await;
    let second = site.autoscaler().await;
    for pair in pairs.iter().map(|(pair, _)| pair).chain([&healthy]) {
        pair.begin(&site, &first).await;
    }

    let before: Vec<_> = pairs.iter().map(|(pair, _)| pair.records(&site)).collect();
    stopped.stop();
    refusing.set(Behaviour::Refuse);
    slow.set(Behaviour::Slow(Duration::from_secs(10)));
    nonsense.set(Behaviour::Nonsense);
    write_password(&password, "wrong");
    for (pair, _) in pairs.iter().skip(1) {
        pair.swap().await;
    }
    healthy.swap().await;
    healthy.until_followed(&site).await;
    let unchanged = |by: &str| {
        for ((pair, _), before) in pairs.iter().zip(&before) {
            assert_eq!(pair.records(&site), *before, "{} was changed by {by}", pair.name);
        }
    };
    for (pair, _) in &pairs {
        pair.until_unknown(&first).await;
    }
    unchanged("the first leader");

    // The next one has never read anything.
    first.kill().expect("killing the leader");
    for (pair, _) in &pairs {
        pair.until_unknown(&second).await;
    }
    unchanged("the second leader");

    stopped.run().await;
    pairs[0].0.swap().await;
    for proxy in [&refusing, &slow, &nonsense] {
        proxy.set(Behaviour::Forward);
    }
    write_password(&password, "right");
    for (pair, _) in &pairs {
        pair.until_followed(&site).await;
    }
}
