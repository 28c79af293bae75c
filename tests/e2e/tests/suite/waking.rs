//! A wake that cannot succeed says so at once, and one that can happens once.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use e2e::{
    Namespace, Service, Site, admin,
    journal::Journal,
    load::{Response, get, once},
};
use serde_json::json;

/// Long, so that an answer within the test's timeout is an answer at once.
const READINESS: &str = "resourceReadinessTimeout: 10m";
const HOLD: &str = "holdTimeout: 10m";

async fn refused(site: &Site, service: &Service) -> Response {
    site.configure(&Namespace::new("demo").window("1m").dlx(READINESS).dlx(HOLD).with(service));
    let _dlx = site.dlx().await;
    let response = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.header("retry-after").is_some(), "{response:?}");
    assert_eq!(response.json()["resource"], "demo/hello");
    site.state_is("demo", "hello", "failed").await;
    response
}

fn reason(response: &Response) -> String {
    response.json()["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_exits_at_once_is_reported_with_its_status() {
    let site = Site::new("exits-");
    let response = refused(&site, &Service::new(&site, "hello").arguments(&["--exit", "3"])).await;
    assert!(reason(&response).contains('3'), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_is_reported_by_name() {
    let site = Site::new("missing-");
    let response = refused(&site, &Service::new(&site, "hello").command(&["/no/such/program"])).await;
    assert!(reason(&response).contains("/no/such/program"), "{}", response.text());
}

/// Another process listens on the resource's port: no request may go to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_taken_by_another_process_is_reported_and_gets_no_request() {
    let site = Site::new("taken-");
    let service = Service::new(&site, "hello");
    let other = TcpListener::bind(("127.0.0.1", service.port)).unwrap();
    other.set_nonblocking(true).unwrap();
    let response = refused(&site, &service).await;
    assert!(reason(&response).contains(&service.port.to_string()), "{}", response.text());
    while let Ok((mut stream, _)) = other.accept() {
        use std::io::Read as _;
        let mut text = [0; 64];
        let read = stream.read(&mut text).unwrap_or_default();
        assert_eq!(read, 0, "another was sent {:?}", String::from_utf8_lossy(&text[..read]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_wake_a_later_request_tries_again() {
    let site = Site::new("again-");
    let program = site.folder().join("program");
    let real = e2e::binaries::own("service");
    let service = Service::new(&site, "hello");
    let (port, journal) = (service.port.to_string(), service.journal.display().to_string());
    let program_text = program.display().to_string();
    let service =
        service.command(&[&program_text, "--port", &port, "--name", "hello", "--journal", &journal]);
    site.configure(&Namespace::new("demo").window("1m").with(&service));
    let _dlx = site.dlx().await;
    let response = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 503, "{}", response.text());

    fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut count = 1;
    e2e::until("a later request to succeed", || {
        count += 1;
        let request = get("hello.localhost", "/", &count.to_string());
        let front = site.front();
        async move {
            let response = once(front, &request).await.map_err(|lost| lost.to_string())?;
            if response.status == 200 { Ok(()) } else { Err(response.text()) }
        }
    })
    .await;
    assert_eq!(Journal::read(&service.journal).starts.len(), 1);
}

/// However many wait, and however it is asked for: one start.
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_by_the_admin_port_and_by_requests_at_once_is_one_wake() {
    let site = Site::new("wake-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1m").with(&service));
    let dlx = site.dlx().await;
    let (other, front) = site.dlx_beside().await;
    let body = json!({"namespace": "demo", "name": "hello"});
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let front = if number % 2 == 0 { site.front() } else { front };
            tokio::spawn(async move { once(front, &get("hello.localhost", "/", &number.to_string())).await })
        })
        .collect();
    for daemon in [&dlx, &other] {
        let answer = admin::post(daemon.admin(), "/api/v1/wake", &body).await.expect("an answer");
        assert!((200..300).contains(&answer.status), "{} {}", answer.status, answer.text());
    }
    for request in requests {
        assert_eq!(request.await.unwrap().expect("an answer").status, 200);
    }
    assert_eq!(Journal::read(&service.journal).starts.len(), 1);
    site.state_is("demo", "hello", "active").await;
}

/// The daemon that started it is not the one that keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_outlives_the_dlx_that_woke_it() {
    let site = Site::new("outlives-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1m").with(&service));
    let mut dlx = site.dlx().await;
    let first = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    dlx.kill().unwrap();
    let _next = site.dlx().await;
    let second = once(site.front(), &get("hello.localhost", "/", "2")).await.expect("an answer");
    assert_eq!(second.status, 200);
    assert_eq!(first.header("x-run"), second.header("x-run"), "another process answered");
    assert_eq!(Journal::read(&service.journal).starts.len(), 1);
}

/// A process that dies by itself is asleep, and the next request starts it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_dies_by_itself_is_started_again_by_the_next_request() {
    let site = Site::new("dies-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1m").with(&service));
    let dlx = site.dlx().await;
    let first = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    let pid: i32 = first.header("x-run").expect("x-run").parse().unwrap();
    e2e::processes::signal(pid, rustix::process::Signal::KILL);
    e2e::until("the DLX to know", || async {
        let resource = dlx.resource("demo", "hello").await;
        let endpoints = resource["endpoints"].as_array().map_or(0, Vec::len);
        if endpoints == 0 { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;
    let second = once(site.front(), &get("hello.localhost", "/", "2")).await.expect("an answer");
    assert_eq!(second.status, 200, "{}", second.text());
    assert_ne!(first.header("x-run"), second.header("x-run"));
}
