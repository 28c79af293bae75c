//! Each of the protocol's rules is needed: without it, requests are lost, and the tests find it.

use std::time::Duration;

use e2e::{
    Daemon, Namespace, Service, Site, binaries,
    cycles::Plan,
    daemon::Launch,
    load::{Lost, Response, get, once},
    member::StandIn,
    until,
    wait::pause,
    without::WITHOUT,
};
use tokio::{task::JoinHandle, time::Instant};

/// Far more cycles than a loss takes to be found (about 20).
const CYCLES: u64 = 300;

/// The load of the cycles finds the loss by itself.
#[tokio::test(flavor = "multi_thread")]
async fn cycles_under_load_find_that_the_version_test_of_a_commit_is_left_out() {
    let rule = "commit_tests_version";
    let report = Plan { cycles: CYCLES, without: Some(rule), until_lost: true, ..Plan::new() }.run().await;
    println!("without {rule}: {report}");
    assert!(
        !report.verdict.lost.is_empty(),
        "nothing was lost without {rule}: the load does not find it\n{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_after_its_dlx_has_confirmed_is_answered() {
    let answer = inside_a_confirmed_drain(None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_version_test_of_a_commit_that_request_is_lost() {
    lost(inside_a_confirmed_drain(Some("commit_tests_version")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reverting_before_forwarding_that_request_is_lost() {
    lost(inside_a_confirmed_drain(Some("revert_before_forward")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_in_flight_when_the_drain_begins_is_answered() {
    let answer = in_flight_at_a_drain(None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_counting_in_flight_that_request_is_lost() {
    lost(in_flight_at_a_drain(Some("confirm_counts_in_flight")).await);
}

fn lost(answer: Result<Response, Lost>) {
    match answer {
        Ok(answer) => assert_eq!(answer.status, 502, "it was answered: {}", answer.text()),
        Err(lost) => println!("{lost}"),
    }
}

/// A site with one resource that was idle for more than a window, its DLX, and another member; both daemons without a
/// rule.
struct Scene {
    site: Site,
    dlx: Daemon,
    stand_in: StandIn,
    autoscaler: Option<Launch>,
}

impl Scene {
    async fn new(without: Option<&str>) -> Self {
        let program = |name: &str| match without {
            None => binaries::folder().join(name),
            Some(_) => binaries::own(&format!("{name}-without")),
        };
        let environment = || without.map(|rule| (WITHOUT.to_owned(), rule.to_owned()));
        let site = Site::new("rules-");
        let service = Service::new(&site, "hello");
        site.configure(&Namespace::new("demo").with(&service));
        let mut launch = site.launch_dlx(program("dlx"), &[]);
        launch.environment.extend(environment());
        let dlx = launch.start().ready().await;
        let answer = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        pause(Duration::from_millis(1500)).await;
        let stand_in = StandIn::join(&site, "demo", "hello").await;
        let mut autoscaler = site.launch_autoscaler(program("autoscaler"), &[]);
        autoscaler.environment.extend(environment());
        Self { site, dlx, stand_in, autoscaler: Some(autoscaler) }
    }

    /// Sends a request that takes a while, and returns when it is in flight.
    async fn request(&self) -> JoinHandle<Result<Response, Lost>> {
        let (front, request) = (self.site.front(), get("hello.localhost", "/slow/3000", "2"));
        let answer = tokio::spawn(async move { once(front, &request).await });
        until("the request to be in flight", || async {
            let resource = self.dlx.resource("demo", "hello").await;
            if resource["in_flight"] == 1 { Ok(()) } else { Err(resource.to_string()) }
        })
        .await;
        answer
    }
}

/// The DLX is asked at the same moment as the other member, and answers in a millisecond or so.
const THE_DLX_HAS_ANSWERED: Duration = Duration::from_millis(500);
/// The autoscaler waits two seconds for the members' answers.
const A_DRAIN_STAYS_OPEN: Duration = Duration::from_millis(1800);

/// A request that comes after its DLX has reported that nothing is in flight, and before the drain attempt: another member keeps the
/// autoscaler waiting for its activity meanwhile.
async fn in_flight_at_a_drain(without: Option<&str>) -> Result<Response, Lost> {
    let mut scene = Scene::new(without).await;
    scene.stand_in.confirm(u32::MAX);
    scene.stand_in.say_busy(true);
    let autoscaler = scene.autoscaler.take().expect("not started yet").start();
    scene.stand_in.wanted().await;
    // A new leader lets nothing sleep for a window.
    pause(Duration::from_millis(1500)).await;
    scene.stand_in.answer_activity(false);
    scene.stand_in.say_busy(false);
    scene.stand_in.wanted().await;
    pause(THE_DLX_HAS_ANSWERED).await;
    let answer = scene.request().await;
    scene.stand_in.answer_activity(true);
    scene.stand_in.asked().await;
    let answer = answer.await.expect("the client");
    autoscaler.ready().await.stop().await;
    answer
}

/// A request that comes after its DLX has confirmed the drain attempt, and before the commit: another member keeps the attempt open.
async fn inside_a_confirmed_drain(without: Option<&str>) -> Result<Response, Lost> {
    loop {
        let mut scene = Scene::new(without).await;
        let autoscaler = scene.autoscaler.take().expect("not started yet").start();
        let drain = scene.stand_in.asked().await;
        let asked = Instant::now();
        pause(THE_DLX_HAS_ANSWERED).await;
        let answer = scene.request().await;
        scene.stand_in.confirm(drain);
        let in_time = asked.elapsed() < A_DRAIN_STAYS_OPEN;
        let answer = answer.await.expect("the client");
        autoscaler.ready().await.stop().await;
        // Else the drain attempt was reverted before, and nothing was tested.
        if in_time {
            return answer;
        }
    }
}
