//! Real brokers: what is read of them, and what happens when they stop, are restarted, or refuse.

mod common;

use common::{Server, Source, body, put, refused, secret, send, statistic, unavailable};
use scaler_types::{QueueError, QueueReading};

const EMPTY_TUBE: QueueReading = QueueReading {
    waiting: Some(0),
    in_flight: Some(0),
    delayed: Some(0),
    arriving_per_minute: None,
    idle_consumers: Some(0),
    oldest_age: None,
};

#[tokio::test]
async fn a_tube_shows_what_waits_is_worked_on_and_comes_later() {
    let server = Server::beanstalkd().await;
    let source = Source::allowing(server.port).await;
    let mut producer = server.connect().await;
    for delay in [0, 0, 0, 3600] {
        put(&mut producer, "mails", delay).await;
    }
    let mut worker = server.connect().await;
    assert_eq!(send(&mut worker, "watch mails").await, "WATCHING 2");
    let reserved = send(&mut worker, "reserve").await;
    assert!(reserved.starts_with("RESERVED"), "{reserved}");
    let mut idle = server.connect().await;
    assert_eq!(send(&mut idle, "watch others").await, "WATCHING 2");
    tokio::io::AsyncWriteExt::write_all(&mut idle, b"reserve\r\n").await.unwrap();
    // It has read the line above once it answers another connection after it.
    while statistic(&mut producer, "current-waiting").await == 0 {}

    let (mails, alias) = (server.uri("beanstalkd", "mails"), server.uri("beanstalk", "mails"));
    let (others, none) = (server.uri("beanstalkd", "others"), server.uri("beanstalkd", "none"));
    let readings = source.read(&[&mails, &others, &none, &alias]).await;
    let expected = QueueReading { waiting: Some(2), in_flight: Some(1), delayed: Some(1), ..EMPTY_TUBE };
    assert_eq!(readings[0], Ok(expected));
    assert_eq!(readings[1], Ok(QueueReading { idle_consumers: Some(1), ..EMPTY_TUBE }));
    assert_eq!(readings[2], Ok(EMPTY_TUBE), "beanstalkd makes a tube on demand");
    assert_eq!(readings[3], readings[0], "both schemes name one queue");
    assert_eq!(statistic(&mut producer, "cmd-reserve").await, 2, "only by the workers");
    assert_eq!(statistic(&mut producer, "cmd-stats-tube").await, 3, "each queue was read once");
}

#[tokio::test]
async fn two_thousand_tubes_are_read_over_one_connection() {
    let server = Server::beanstalkd().await;
    let source = Source::allowing(server.port).await;
    let mut producer = server.connect().await;
    put(&mut producer, "tube1999", 0).await;
    let tubes: Vec<_> = (0..2000).map(|tube| server.uri("beanstalkd", &format!("tube{tube}"))).collect();
    let tubes: Vec<_> = tubes.iter().map(String::as_str).collect();
    let (one, other) = tokio::join!(source.read(&tubes), source.read(&tubes));
    for readings in [one, other] {
        assert_eq!(readings[1998], Ok(EMPTY_TUBE));
        assert_eq!(readings[1999].as_ref().unwrap().waiting, Some(1));
    }
    assert_eq!(
        statistic(&mut producer, "total-connections").await,
        3,
        "the server's start, ours, the source's"
    );
}

#[tokio::test]
async fn a_broker_that_was_restarted_is_read_again() {
    for scheme in ["beanstalkd", "redis"] {
        let mut server =
            if scheme == "redis" { Server::redis(&[]).await } else { Server::beanstalkd().await };
        let source = Source::allowing(server.port).await;
        let queue = server.uri(scheme, if scheme == "redis" { "0/jobs" } else { "jobs" });
        assert_eq!(source.read_one(&queue).await.unwrap().waiting, Some(0));
        server.kill();
        server.run().await;
        assert_eq!(source.read_one(&queue).await.unwrap().waiting, Some(0), "at once, on a new connection");

        server.kill();
        let error = unavailable(source.read_one(&queue).await);
        assert!(error.contains(&server.port.to_string()) && error.contains("refused"), "{error}");
        server.run().await;
        source.until_read(&queue).await;
    }
}

#[tokio::test]
async fn a_list_shows_what_waits_and_not_what_is_worked_on() {
    let server = Server::redis(&[]).await;
    let source = Source::allowing(server.port).await;
    let mut redis = server.connect().await;
    assert_eq!(send(&mut redis, "LPUSH jobs a b c").await, ":3");
    assert_eq!(send(&mut redis, "SELECT 3").await, "+OK");
    assert_eq!(send(&mut redis, "LPUSH jobs a").await, ":1");
    let queues: Vec<_> = ["0/jobs", "3/jobs", "0/none", "16/jobs"].map(|key| server.uri("redis", key)).into();
    let readings = source.read(&queues.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (reading, waiting) in readings.iter().zip([3, 1, 0]) {
        let expected = QueueReading { waiting: Some(waiting), delayed: Some(0), ..QueueReading::default() };
        assert_eq!(*reading, Ok(expected));
    }
    let Err(QueueError::Invalid(error)) = &readings[3] else { panic!("{:?}", readings[3]) };
    assert!(error.contains("has no database 16"), "{error}");
    // A list vanishes with its last message.
    assert_eq!(send(&mut redis, "DEL jobs").await, ":1");
    assert_eq!(source.read_one(&queues[1]).await.unwrap().waiting, Some(0));
}

#[tokio::test]
async fn a_stream_shows_what_its_group_has_before_it_and_what_is_pending() {
    let server = Server::redis(&[]).await;
    let source = Source::allowing(server.port).await;
    let queue = server.uri("redis", "0/mails?group=workers");
    let mut redis = server.connect().await;
    let error = source.read_one(&queue).await.unwrap_err();
    assert!(matches!(error, QueueError::NotFound(_)), "{error}");
    assert_eq!(send(&mut redis, "XGROUP CREATE mails others 0 MKSTREAM").await, "+OK");
    let error = source.read_one(&queue).await.unwrap_err();
    assert!(matches!(&error, QueueError::NotFound(text) if text.contains("XGROUP CREATE")), "{error}");
    assert_eq!(send(&mut redis, "XGROUP CREATE mails workers 0").await, "+OK");
    for _ in 0..5 {
        assert!(send(&mut redis, "XADD mails * a b").await.starts_with('$'));
        assert!(!read_rest(&mut redis).await.is_empty());
    }
    let reading = |waiting, in_flight| QueueReading {
        waiting: Some(waiting),
        in_flight: Some(in_flight),
        delayed: Some(0),
        ..QueueReading::default()
    };
    assert_eq!(source.read_one(&queue).await, Ok(reading(5, 0)));
    let mut worker = server.connect().await;
    assert_eq!(send(&mut worker, "XREADGROUP GROUP workers me COUNT 2 STREAMS mails >").await, "*1");
    assert_eq!(source.read_one(&queue).await, Ok(reading(3, 2)));

    // Deleted before it was read: Redis no longer knows how many wait.
    let newest = "XREVRANGE mails + - COUNT 1";
    assert_eq!(send(&mut redis, newest).await, "*1");
    assert_eq!(read_rest(&mut redis).await, "*2");
    read_rest(&mut redis).await;
    let id = read_rest(&mut redis).await;
    let mut other = server.connect().await;
    assert!(send(&mut other, "XADD mails * a b").await.starts_with('$'));
    let mut other = server.connect().await;
    assert_eq!(send(&mut other, &format!("XDEL mails {id}")).await, ":1");
    let unknown = source.read_one(&queue).await.unwrap();
    assert_eq!((unknown.waiting, unknown.in_flight), (None, Some(2)));

    assert_eq!(send(&mut other, "LPUSH list a").await, ":1");
    for (key, hint) in [("0/list?group=workers", "leave ?group= out"), ("0/mails", "expected ?group=NAME")] {
        let error = source.read_one(&server.uri("redis", key)).await.unwrap_err();
        assert!(matches!(&error, QueueError::Invalid(text) if text.contains(hint)), "{error}");
    }
    assert_eq!(send(&mut other, "DEL mails").await, ":1");
    let error = source.read_one(&queue).await.unwrap_err();
    assert!(matches!(error, QueueError::NotFound(_)), "a stream that vanished is not empty: {error}");
}

/// The next line.
async fn read_rest(connection: &mut tokio::io::BufReader<tokio::net::TcpStream>) -> String {
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(connection, &mut line).await.unwrap();
    line.trim_end().to_owned()
}

#[tokio::test]
async fn wrong_credentials_are_refused_until_their_file_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::redis(&["--requirepass", "correct horse"]).await;
    let host = format!("127.0.0.1:{}", server.port);
    let queue = server.uri("redis", "0/jobs");

    let error = refused(Source::allowing(server.port).await.read_one(&queue).await);
    let wanted = format!(
        "metricSources.queues.credentials: {{\"{host}\": {{usernameFile: FILE, passwordFile: FILE}}}}"
    );
    assert!(error.contains("requires a password") && error.contains(&wanted), "{error}");

    let file = folder.path().join("password");
    let section = format!(
        "{{allowedHosts: ['{host}'], credentials: {{'{host}': {{passwordFile: {}}}}}}}",
        file.display()
    );
    let source = Source::start(&section).await;
    let error = unavailable(source.read_one(&queue).await);
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    secret(folder.path(), "password", "tr0ub4dor\n");
    let error = refused(source.read_one(&queue).await);
    assert!(error.contains("wrong user or password") && !error.contains("tr0ub4dor"), "{error}");
    secret(folder.path(), "password", "correct horse\n");
    assert_eq!(
        source.read_one(&queue).await.unwrap().waiting,
        Some(0),
        "without waiting for the next attempt"
    );

    // A user of its own, which may only read the queues.
    let mut redis = server.connect().await;
    assert_eq!(send(&mut redis, "AUTH \"correct horse\"").await, "+OK");
    let user = "ACL SETUSER scaler on >secret resetkeys %R~jobs* nocommands +llen +xinfo|groups +select";
    assert_eq!(send(&mut redis, user).await, "+OK");
    assert_eq!(send(&mut redis, "CONFIG SET requirepass other").await, "+OK");
    secret(folder.path(), "user", "scaler");
    secret(folder.path(), "password", "secret");
    let both = section.replace(
        "passwordFile",
        &format!("usernameFile: {}, passwordFile", folder.path().join("user").display()),
    );
    let source = Source::start(&both).await;
    let readings = source.read(&[&queue, &server.uri("redis", "0/private")]).await;
    assert_eq!(readings[0].as_ref().unwrap().waiting, Some(0));
    let error = refused(readings[1].clone());
    assert!(error.contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn tls_is_checked_against_the_operators_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Without the extensions of a certificate authority.
    std::fs::write(path("openssl.conf"), "[req]\ndistinguished_name = name\n[name]\n").unwrap();
    let certificate = |name: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        openssl.args(["-config", &path("openssl.conf")]);
        openssl.args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]);
        openssl.args(["-keyout", &path(&format!("{name}.key")), "-out", &path(&format!("{name}.pem"))]);
        assert!(openssl.stderr(std::process::Stdio::null()).status().unwrap().success());
    };
    certificate("server");
    certificate("other");
    let port = common::free_port();
    let (key, pem) = (path("server.key"), path("server.pem"));
    let command = [
        "redis-server",
        "--port",
        "0",
        "--tls-port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--tls-cert-file",
        &pem,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &pem,
        "--tls-auth-clients",
        "no",
    ];
    let server = Server::start(&command, port).await;
    let host = format!("127.0.0.1:{port}");
    for (ca, is_trusted) in [("server", true), ("other", false)] {
        let section = format!(
            "{{allowedHosts: ['rediss://{host}'], credentials: {{'{host}': {{caFile: {}}}}}}}",
            path(&format!("{ca}.pem"))
        );
        let source = Source::start(&section).await;
        let queue = server.uri("rediss", "0/jobs");
        match source.read_one(&queue).await {
            Ok(reading) => assert!(is_trusted && reading.waiting == Some(0), "{reading:?}"),
            error => assert!(!is_trusted && unavailable(error.clone()).contains("certificate"), "{error:?}"),
        }
        let error = refused(source.read_one(&server.uri("redis", "0/jobs")).await);
        assert!(error.contains("allowedHosts"), "without TLS it is another broker: {error}");
    }
}

#[tokio::test]
async fn the_first_message_of_an_empty_queue_is_a_change() {
    let (beanstalkd, redis) = (Server::beanstalkd().await, Server::redis(&[]).await);
    let section = format!("{{allowedHosts: ['127.0.0.1:{}', '127.0.0.1:{}']}}", beanstalkd.port, redis.port);
    let source = Source::start(&section).await;
    let (mails, jobs) = (beanstalkd.uri("beanstalkd", "mails"), redis.uri("redis", "0/jobs"));
    let mut producer = beanstalkd.connect().await;
    let queues = [jobs.as_str(), &mails];
    let (changed, ()) = tokio::join!(source.changes(&queues), put(&mut producer, "mails", 0));
    assert_eq!(changed, [mails.as_str()]);
    let mut producer = redis.connect().await;
    let (changed, _) = tokio::join!(source.changes(&queues[..1]), send(&mut producer, "LPUSH jobs a"));
    assert_eq!(changed, [jobs]);
    let listed = send(&mut producer, "CLIENT LIST").await;
    let clients = body(&mut producer, &listed.replace('$', "")).await;
    assert_eq!(clients.trim().lines().count(), 2, "the producer and the source: {clients}");
}
