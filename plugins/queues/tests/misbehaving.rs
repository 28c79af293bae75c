//! Brokers that are silent, refuse, answer nonsense or too much: their queues are unknown, and only theirs.

mod common;

use std::time::Duration;

use common::{Behaviour, FakeBroker, Server, Source, free_port, put, send, unavailable};
use tokio::time::timeout;

const SCHEMES: [(&str, &str, &str); 2] =
    [("beanstalkd", "jobs", "USING default\r\n"), ("redis", "0/jobs", "+PONG\r\n")];

/// Another queue, of a broker that answers, is read beside each that is not.
async fn beside(port: u16, more: &str) -> (Server, Source) {
    let healthy = Server::redis(&[]).await;
    let section = format!("{{allowedHosts: ['127.0.0.1:{}', '127.0.0.1:{port}'{more}]}}", healthy.port);
    (healthy, Source::start(&section).await)
}

fn uri(scheme: &str, port: u16, queue: &str) -> String {
    format!("{scheme}://127.0.0.1:{port}/{queue}")
}

#[tokio::test]
async fn nonsense_is_an_error_of_its_queue() {
    let line = "x".repeat(1_000_000);
    let nonsense = [
        ("HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request"),
        ("OK 99999999999\r\n", "OK 99999999999"),
        ("$99999999999\r\n", ""),
        ("*99999999999\r\n:1\r\n$-9\r\n", ""),
        ("\r\n", ""),
        (&line, "a line of more than"),
    ];
    for (scheme, queue, hello) in SCHEMES {
        for (answer, quoted) in nonsense {
            for first in [hello, answer] {
                // A leak in a test: the broker wants it for as long as it runs.
                let first: &'static str = Box::leak(first.to_owned().into_boxed_str());
                let broker = FakeBroker::start(Behaviour::Answers { first, then: answer.to_owned() }).await;
                let (healthy, source) = beside(broker.port, "").await;
                let readings =
                    source.read(&[&uri(scheme, broker.port, queue), &healthy.uri("redis", "0/a")]).await;
                let error = unavailable(readings[0].clone());
                assert!(error.contains(&broker.port.to_string()) && error.len() < 400, "{error}");
                assert!(error.contains(quoted), "{error}");
                assert_eq!(readings[1].as_ref().unwrap().waiting, Some(0));
            }
        }
    }
}

#[tokio::test]
async fn a_broker_that_refuses_costs_only_its_own_queues() {
    for (scheme, queue, _) in SCHEMES {
        let port = free_port();
        let (healthy, source) = beside(port, "").await;
        for _ in 0..3 {
            let readings = source.read(&[&uri(scheme, port, queue), &healthy.uri("redis", "0/a")]).await;
            let error = unavailable(readings[0].clone());
            assert!(error.contains("refused"), "{error}");
            assert_eq!(readings[1].as_ref().unwrap().waiting, Some(0));
        }
    }
}

#[tokio::test]
async fn a_silent_broker_delays_the_others_once() {
    for (scheme, queue, hello) in SCHEMES {
        let silent = FakeBroker::start(Behaviour::Silent).await;
        // Answers when it is connected to, and then takes its time.
        let slow = FakeBroker::start(Behaviour::Answers { first: hello, then: String::new() }).await;
        let (healthy, source) = beside(silent.port, &format!(", '127.0.0.1:{}'", slow.port)).await;
        let queues =
            [uri(scheme, silent.port, queue), uri(scheme, slow.port, queue), healthy.uri("redis", "0/a")];
        let queues = [queues[0].as_str(), &queues[1], &queues[2]];
        let first = source.read(&queues).await;
        for reading in &first[..2] {
            let error = unavailable(reading.clone());
            assert!(error.contains("did not answer within 5 s"), "{error}");
        }
        assert_eq!(first[2].as_ref().unwrap().waiting, Some(0));
        let attempts = (silent.accepted(), slow.accepted());
        for _ in 0..50 {
            let again = source.read(&queues).await;
            assert_eq!(again[..2], first[..2]);
            assert_eq!(again[2].as_ref().unwrap().waiting, Some(0));
        }
        let more = silent.accepted() - attempts.0 + slow.accepted() - attempts.1;
        assert!(more <= 2, "50 reads in a row attempted {more} connections");
    }
}

/// Its first attempt takes 5 s. By then the message was noticed.
#[tokio::test]
async fn a_silent_broker_does_not_delay_the_notice_of_a_message_elsewhere() {
    for (scheme, queue, _) in SCHEMES {
        let silent = FakeBroker::start(Behaviour::Silent).await;
        let (healthy, source) = beside(silent.port, "").await;
        let (unanswered, jobs) = (uri(scheme, silent.port, queue), healthy.uri("redis", "0/jobs"));
        let mut producer = healthy.connect().await;
        assert_eq!(send(&mut producer, "LPUSH jobs a").await, ":1");
        let both = [unanswered.as_str(), &jobs];
        tokio::select! {
            biased;
            reading = source.read_one(&unanswered) => panic!("noticed no message until {reading:?}"),
            changed = source.changes(&both) => assert_eq!(changed, [jobs.as_str()]),
        }
    }
}

/// As the autoscaler does whenever a further queue has become empty.
#[tokio::test]
async fn a_message_is_noticed_though_the_wait_for_it_begins_anew_again_and_again() {
    let server = Server::beanstalkd().await;
    let source = Source::allowing(server.port).await;
    let jobs = server.uri("beanstalkd", "jobs");
    let mut producer = server.connect().await;
    put(&mut producer, "jobs", 0).await;
    for _ in 0..100 {
        if let Ok(changed) = timeout(Duration::from_millis(100), source.changes(&[&jobs])).await {
            assert_eq!(changed, [jobs]);
            return;
        }
    }
    panic!("it was never noticed");
}

#[tokio::test]
async fn a_broker_that_closes_in_the_middle_answers_what_it_answered() {
    let jobs = "current-jobs-ready: 3\n";
    let answer = format!("OK {}\r\n{jobs}\r\n", jobs.len());
    let closes = Behaviour::Closes { first: "USING default\r\n", then: answer, after: 3 };
    let broker = FakeBroker::start(closes).await;
    let source = Source::allowing(broker.port).await;
    let tubes = ["a", "b", "c", "d"].map(|tube| uri("beanstalkd", broker.port, tube));
    let readings = source.read(&tubes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (read, failed): (Vec<_>, Vec<_>) = readings.into_iter().partition(Result::is_ok);
    assert_eq!((read.len(), failed.len()), (2, 2), "{failed:?}");
    for reading in read.into_iter().flatten() {
        assert_eq!((reading.waiting, reading.in_flight), (Some(3), None), "what is missing is unknown");
    }
    assert!(unavailable(failed[0].clone()).contains("closed the connection"));
}
