//! How soon a message is noticed, and what that costs: printed, with numbers of queues that `SCALER_CYCLES` makes large. Nothing
//! is asserted about times.

use std::time::{Duration, SystemTime};

use e2e::{
    Namespace, Site, Workers,
    broker_proxy::{Behaviour, BrokerProxy},
    brokers::{Broker, Queue},
    processes,
    random::{self, Random},
    until,
    wait::pause,
};
use tokio::time::Instant;

use super::{NAMESPACE, allowed_hosts, site, until_empty, until_said};

/// Whether the numbers are to be those of a soak.
fn is_soak() -> bool {
    std::env::var("SCALER_CYCLES")
        .ok()
        .and_then(|cycles| cycles.parse().ok())
        .is_some_and(|cycles: u32| cycles > 100)
}

/// From messages to the writes of the replicas for them.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    /// Puts one message into each of these queues, `apart` from each other on average, and waits until the workers are awake.
    async fn measure<'a>(
        &mut self,
        site: &Site,
        random: &mut Random,
        apart: Duration,
        queues: impl IntoIterator<Item = &'a (String, Queue)>,
    ) {
        let mut put = Vec::new();
        for (name, queue) in queues {
            pause(random.between(Duration::ZERO..apart * 2)).await;
            put.push((name, SystemTime::now()));
            queue.put(1).await;
        }
        for (name, at) in put {
            site.replicas_are(NAMESPACE, name, 1).await;
            match site.written(NAMESPACE, name).duration_since(at) {
                Ok(latency) => self.0.push(latency),
                Err(error) => panic!("{name} was woken {:?} before its message", error.duration()),
            }
        }
    }

    fn at(&self, percent: usize) -> String {
        let mut sorted = self.0.clone();
        sorted.sort();
        let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(place).map_or_else(|| "-".to_owned(), |latency| format!("{:.3}", latency.as_secs_f64()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_message_to_the_write_of_the_replicas() {
    let (each, rounds) = if is_soak() { (40, 5) } else { (2, 1) };
    let mut random = Random::new(random::seed(), 0);
    let site = site("noticing-");
    let (beanstalkd, redis) = (Broker::beanstalkd(&site).await, Broker::redis(&site, &[]).await);
    let mut namespace = Namespace::new(NAMESPACE)
        .queues(&format!("{{{}}}", allowed_hosts(&site, &[beanstalkd.host(), redis.host()])));
    let mut queues = Vec::new();
    for number in 0..each {
        let name = |kind: &str| format!("{kind}-{number}");
        queues.push([
            (name("file"), Queue::folder(&site, &name("file"))),
            (name("beanstalkd"), Queue::Tube(beanstalkd.port, name("tube"))),
            (name("redis"), Queue::List(redis.port, name("list"))),
        ]);
    }
    for (name, queue) in queues.iter().flatten() {
        namespace = namespace.workers(&Workers::new(name, &queue.uri()).set("earlyAck: accepted"));
    }
    site.configure(&namespace);
    let autoscaler = site.autoscaler().await;
    let mut latencies: [Latencies; 3] = Default::default();
    for _ in 0..rounds {
        for (name, _) in queues.iter().flatten() {
            site_sleeps(&site, name).await;
            until_empty(&autoscaler, name).await;
        }
        for (kind, latencies) in latencies.iter_mut().enumerate() {
            let of_it = queues.iter().map(|of_all| &of_all[kind]);
            latencies.measure(&site, &mut random, Duration::from_millis(400), of_it).await;
        }
        for (_, queue) in queues.iter().flatten() {
            queue.clear().await;
        }
    }
    println!(
        "| first message to the write of the replicas, s | n | p50 | p99 | max |\n|---|---|---|---|---|"
    );
    for (kind, latencies) in ["file", "beanstalkd", "redis"].iter().zip(&latencies) {
        let [p50, p99, max] = [50, 99, 100].map(|percent| latencies.at(percent));
        println!("| {kind} | {} | {p50} | {p99} | {max} |", latencies.0.len());
        assert_eq!(latencies.0.len(), each * rounds);
    }
}

async fn site_sleeps(site: &Site, name: &str) {
    until(&format!("{name} to sleep"), || async {
        let phase = site.state(NAMESPACE, name);
        // It has no record before its first wake.
        if ["", "asleep"].contains(&phase.as_str()) { Ok(()) } else { Err(phase) }
    })
    .await;
}

/// Half of the queues are tubes, half are lists; a quarter of each is on a broker of its own, which fails in the second half.
#[tokio::test(flavor = "multi_thread")]
async fn many_queues_on_one_autoscaler_a_quarter_of_which_then_fail() {
    let (count, measured, apart) =
        if is_soak() { (2000, 100, Duration::from_millis(500)) } else { (40, 2, Duration::from_millis(100)) };
    let mut random = Random::new(random::seed(), 0);
    let site = site("many-");
    let (beanstalkd, other_beanstalkd) = (Broker::beanstalkd(&site).await, Broker::beanstalkd(&site).await);
    let (redis, other_redis) = (Broker::redis(&site, &[]).await, Broker::redis(&site, &[]).await);
    let proxies =
        [BrokerProxy::start(other_beanstalkd.port).await, BrokerProxy::start(other_redis.port).await];
    let ports = [beanstalkd.port, redis.port, proxies[0].port, proxies[1].port];
    let hosts = allowed_hosts(&site, &ports.map(|port| format!("127.0.0.1:{port}")));
    let mut namespace = Namespace::new(NAMESPACE).interval("10s").queues(&format!("{{{hosts}}}"));
    let (mut healthy, mut failing) = (Vec::new(), Vec::new());
    for number in 0..count {
        let name = format!("workers-{number}");
        let fails = number % 4 == 3;
        let is_tube = number / 4 % 2 == 0;
        let queue = match (is_tube, fails) {
            (true, false) => Queue::Tube(beanstalkd.port, name.clone()),
            (true, true) => Queue::Tube(other_beanstalkd.port, name.clone()),
            (false, false) => Queue::List(redis.port, name.clone()),
            (false, true) => Queue::List(other_redis.port, name.clone()),
        };
        let uri = if fails { queue.uri_at(proxies[usize::from(!is_tube)].port) } else { queue.uri() };
        namespace = namespace.workers(&Workers::new(&name, &uri).set("earlyAck: accepted"));
        if fails { &mut failing } else { &mut healthy }.push((name, queue));
    }
    site.configure(&namespace);
    let autoscaler = site.autoscaler().await;
    for (name, _) in [&healthy[0], &healthy[healthy.len() - 1], &failing[0], &failing[failing.len() - 1]] {
        until_empty(&autoscaler, name).await;
    }
    println!(
        "| queues | failing | CPU, of one core | memory peak | calls to brokers per s | noticed, s: p50 | p99 | max |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let mut unused = healthy.iter().step_by(count / 4 * 3 / (measured * 2));
    for fails in [false, true] {
        if fails {
            for proxy in &proxies {
                proxy.set(Behaviour::Slow(Duration::from_secs(10)));
            }
            until_said(&autoscaler, &failing[0].0, "cannot be read", |resource| {
                resource["scaling"]["queues"][0]["error"].is_string()
            })
            .await;
        }
        let mut latencies = Latencies::default();
        let (began, cpu, calls) =
            (Instant::now(), processes::cpu_time(autoscaler.pid()), calls(&beanstalkd, &redis).await);
        latencies.measure(&site, &mut random, apart, unused.by_ref().take(measured)).await;
        let seconds = began.elapsed().as_secs_f64();
        let cpu = (processes::cpu_time(autoscaler.pid()) - cpu).as_secs_f64() / seconds;
        let calls = (self::calls(&beanstalkd, &redis).await - calls) as f64 / seconds;
        let [p50, p99, max] = [50, 99, 100].map(|percent| latencies.at(percent));
        println!(
            "| {count} | {} | {:.1} % | {} MiB | {calls:.0} | {p50} | {p99} | {max} |",
            if fails { failing.len() } else { 0 },
            cpu * 100.0,
            processes::peak_memory(autoscaler.pid()) >> 20,
        );
        assert_eq!(latencies.0.len(), measured);
    }
}

/// How often the two were asked for a queue so far.
async fn calls(beanstalkd: &Broker, redis: &Broker) -> u64 {
    let number = |text: &str, key: &str| {
        let line =
            text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}: {text}"));
        line.trim().parse::<u64>().expect("a number")
    };
    let tubes = beanstalkd.connect().await.text("stats").await;
    let keys = redis.connect().await.text("INFO stats").await;
    number(&tubes, "cmd-stats-tube:") + number(&keys, "total_commands_processed:")
}
