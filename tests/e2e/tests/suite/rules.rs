//! Each of the protocol's rules is needed: without it, requests are lost, and the tests find it.

use std::time::Duration;

use e2e::{
    Namespace, Service, Site, binaries,
    cycles::Plan,
    load::{Lost, Response, get, once},
    member::StandIn,
    until,
    wait::pause,
    without::WITHOUT,
};

/// Far more cycles than a loss takes to be found.
const CYCLES: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_version_test_of_a_commit_requests_are_lost() {
    loses("commit_tests_version").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_reverting_before_forwarding_requests_are_lost() {
    loses("revert_before_forward").await;
}

async fn loses(rule: &'static str) {
    let plan = Plan { cycles: CYCLES, without: Some(rule), until_lost: true, ..Plan::new() };
    let report = plan.run().await;
    println!("without {rule}: {report}");
    assert!(
        !report.verdict.lost.is_empty(),
        "nothing was lost without {rule}: the load does not find it\n{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_in_flight_when_the_fence_comes_is_answered() {
    let answer = in_flight_at_a_fence(None).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_counting_in_flight_that_request_is_lost() {
    let answer = in_flight_at_a_fence(Some("confirm_counts_in_flight")).await;
    println!("{answer:?}");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 502), "it was answered");
}

/// A request that comes after its DLX has said that nothing is in flight, and before the fence: another member keeps the
/// autoscaler waiting meanwhile.
async fn in_flight_at_a_fence(without: Option<&str>) -> Result<Response, Lost> {
    let program = |name: &str| match without {
        None => binaries::folder().join(name),
        Some(_) => binaries::own(&format!("{name}-without")),
    };
    let environment = || without.map(|rule| (WITHOUT.to_owned(), rule.to_owned()));
    let site = Site::new("inflight-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let mut launch = site.launch_dlx(program("dlx"), &[]);
    launch.environment.extend(environment());
    let dlx = launch.start().ready().await;
    assert_eq!(once(site.front(), &get("hello.localhost", "/", "1")).await?.status, 200);
    // Idle for more than a window, and counted all the while.
    pause(Duration::from_millis(1500)).await;

    let mut stand_in = StandIn::join(&site, "demo", "hello").await;
    stand_in.tell(false);
    stand_in.confirm(u32::MAX);
    let mut launch = site.launch_autoscaler(program("autoscaler"), &[]);
    launch.environment.extend(environment());
    let autoscaler = launch.start();
    stand_in.wanted().await;
    // The DLX was asked at the same moment, and takes a millisecond.
    pause(Duration::from_millis(500)).await;
    let (front, request) = (site.front(), get("hello.localhost", "/slow/3000", "2"));
    let request = tokio::spawn(async move { once(front, &request).await });
    until("the request to be in flight", || async {
        let resource = dlx.resource("demo", "hello").await;
        if resource["in_flight"] == 1 { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;
    stand_in.tell(true);
    stand_in.asked().await;
    let answer = request.await.expect("the client");
    autoscaler.ready().await.stop().await;
    answer
}
