//! `metricSources.queues`: what is refused, with its line, and that no error repeats a password.

mod common;

use common::{Source, refused};
use scaler_types::QueueError;

#[tokio::test]
async fn a_mistake_is_refused_with_its_line() {
    for (section, expected) in [
        (
            "{allowedHost: [a]}",
            "demo.yaml:3:12: unknown key \"allowedHost\", expected one of allowedHosts, credentials",
        ),
        (
            "{allowedHosts: ['http://a']}",
            "demo.yaml:3:27: \"http://a\" is no broker or folder, expected one as",
        ),
        (
            "{allowedHosts: ['file://a/b']}",
            "demo.yaml:3:27: \"file://a/b\" is no folder, expected one as file:///var/spool/jobs",
        ),
        (
            "{credentials: {'*.a': {passwordFile: /a}}}",
            "\"*.a\" is no broker, expected one as redis.shop:6379",
        ),
        ("{credentials: {a: {passwordFile: a}}}", "a is no absolute path, expected one"),
        (
            "{credentials: {a: {password: b}}}",
            "unknown key \"password\", expected one of usernameFile, passwordFile, caFile",
        ),
    ] {
        let error = Source::try_start(section).await.err().expect(section);
        assert!(error.contains(expected) && error.starts_with("demo.yaml:3:"), "{error}");
    }
}

#[tokio::test]
async fn what_the_operator_has_not_listed_is_refused() {
    let source = Source::start("{allowedHosts: [allowed.example]}").await;
    for (queue, entry) in [
        ("beanstalkd://Other.example/mails", "other.example:11300"),
        ("redis://[::1]:7000/0/jobs", "[::1]:7000"),
        ("rediss:///0/jobs", "localhost:6379"),
        ("file:///var/spool/jobs", "file:///var/spool/jobs"),
    ] {
        let error = refused(source.read_one(queue).await);
        assert!(error.contains(&format!("allowedHosts: [\"{entry}\"]")), "{error}");
    }
    for queue in
        ["redis://user:secret@allowed.example/0/jobs", "beanstalkd://:secret/x@allowed.example/mails"]
    {
        let error = refused(source.read_one(queue).await);
        assert!(error.contains("credentials") && !error.contains("secret"), "{error}");
    }
    let error = source.read_one("amqp://allowed.example/jobs").await.unwrap_err();
    let expected = "expected a queue of beanstalkd, beanstalk, redis, rediss, file";
    assert_eq!(error, QueueError::Invalid(expected.to_owned()));
}

#[tokio::test]
async fn what_the_example_and_the_page_show_is_taken() {
    let page = include_str!("../../../docs/metric-sources-queues.md");
    let shown = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    for file in [include_str!("../../../examples/config/every-key.yaml"), shown] {
        let source = Source::start_with(file).await.unwrap();
        let gone = source.read_one("file:///var/spool/jobs/none-of-this-name").await;
        assert!(matches!(gone, Err(QueueError::NotFound(_))), "allowed, and not there: {gone:?}");
        refused(source.read_one("redis://redis.shop:6380/0/jobs").await);
    }
}
