//! A process from zero and back, as one daemon sees it.
#![allow(missing_docs)]

mod common;

use common::*;
use scaler_types::{Endpoint, Phase, Probe, Resource, ResourceScaler as _, ScaleError};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_zero_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let scaler = scaler(
        folder.path(),
        &service("hello", port, "        readyPath: /\n        hosts: [Hello.localhost]\n"),
    )
    .await;
    let asleep = resource(&scaler, "hello").await;
    assert_eq!((asleep.replicas, &asleep.endpoints[..]), (0, &[][..]));
    assert_eq!(asleep.hosts, ["hello.localhost"]);

    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let awake = resource(&scaler, "hello").await;
    assert_eq!((awake.replicas, awake.record.phase), (1, Phase::Waking));
    let [Endpoint { address, incarnation, probe, .. }] = &awake.endpoints[..] else { panic!("{awake:?}") };
    assert_eq!(
        (address, probe),
        (&format!("127.0.0.1:{port}"), &Probe::Http { path: "/".into(), headers: Vec::new() })
    );
    assert_ne!(awake.version, asleep.version);

    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
    let asleep = resource(&scaler, "hello").await;
    assert_eq!((asleep.replicas, asleep.record.phase, asleep.status.as_str()), (0, Phase::Asleep, ""));
    assert!(asleep.endpoints.is_empty());
    TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());

    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    assert_ne!(
        resource(&scaler, "hello").await.endpoints[0].incarnation,
        *incarnation,
        "another run is another incarnation"
    );
    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_no_longer_stands_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let scaler = scaler(folder.path(), &service("hello", free_port(), "")).await;
    let old = resource(&scaler, "hello").await.version;
    let new = scaler.compare_and_set(&id("hello"), &old, &record(Phase::Active)).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(
        scaler.compare_and_set(&id("hello"), &old, &record(Phase::Active)).await,
        Err(ScaleError::Conflict)
    );
    assert_eq!(scaler.set_scale(&request("hello", &old, Phase::Waking)).await, Err(ScaleError::Conflict));
    assert_eq!(resource(&scaler, "hello").await.replicas, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_come_up_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let resources = [
        command("crash", free_port(), "echo no database; exit 3", ""),
        format!(
            "      - name: missing\n        command: [no-such-program-here]\n        port: {}\n",
            free_port()
        ),
        service("taken", taken_port, ""),
        service("nowhere", free_port(), "        workingDirectory: /no/such/folder\n"),
        command("killed", free_port(), "kill -9 $$", ""),
    ]
    .concat();
    let scaler = scaler(folder.path(), &resources).await;
    for (name, wanted) in [
        ("crash", "exited with status 3; it last said: no database"),
        ("missing", "cannot start \"no-such-program-here\": No such file or directory"),
        ("taken", "is not free"),
        ("nowhere", "/no/such/folder is no folder"),
        ("killed", "was ended by signal 9"),
    ] {
        match scale(&scaler, name, Phase::Waking).await {
            Err(ScaleError::Terminal { reason }) if reason.contains(wanted) => {}
            other => panic!("{name}: {other:?}"),
        }
        let after = resource(&scaler, name).await;
        assert_eq!(after.replicas, 0, "{name}");
    }
    assert_eq!(resource(&scaler, "crash").await.status, "exited with status 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_by_itself_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let scaler = scaler(folder.path(), &service("hello", port, "")).await;
    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    let awake = until(&scaler, "hello", |hello| hello.replicas == 1).await;
    // Another daemon's instance of the plugin.
    let other = common::scaler(folder.path(), &service("hello", port, "")).await;
    for process in processes_of(folder.path()) {
        let (pid, arguments) = process.split_once(' ').unwrap();
        assert!(arguments.starts_with("process-shim run"), "{arguments}");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        std::process::Command::new("kill").args(children.split_whitespace()).status().unwrap();
    }
    for scaler in [&scaler, &other] {
        // Listed as gone at once; how it ended is known when that is written down.
        let gone = |hello: &Resource| hello.replicas == 0 && hello.version != awake.version;
        let ended = until(scaler, "hello", gone).await;
        assert_eq!(ended.status, "was ended by signal 15");
        assert!(ended.endpoints.is_empty());
    }
    scale(&other, "hello", Phase::Waking).await.unwrap();
    assert_eq!(resource(&scaler, "hello").await.replicas, 1);
    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_group_is_stopped_and_killed_after_the_grace_period() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let place = folder.path().display();
    let script = format!(
        "trap '' TERM; (trap '' TERM; sleep 1000; echo {place}) & setsid sh -c 'trap \"\" TERM; sleep 1001; echo {place}' & \
         python3 -c 'import signal; signal.signal(15, signal.SIG_IGN); import http.server; \
         http.server.HTTPServer((\"127.0.0.1\", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()'; echo {place}"
    );
    let scaler =
        scaler(folder.path(), &command("stubborn", port, &script, "        stopGracePeriod: 300ms\n")).await;
    scale(&scaler, "stubborn", Phase::Waking).await.unwrap();
    assert!(processes_of(folder.path()).len() >= 4, "{:?}", processes_of(folder.path()));
    scale(&scaler, "stubborn", Phase::Asleep).await.unwrap();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    assert_eq!(resource(&scaler, "stubborn").await.status, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_may_finish_its_work_within_the_grace_period() {
    let folder = tempfile::tempdir().unwrap();
    let (port, done) = (free_port(), folder.path().join("done"));
    let script = format!(
        "trap 'sleep 0.3; echo drained > {}; kill %1; exit 0' TERM; python3 -m http.server {port} --bind 127.0.0.1 & wait",
        done.display()
    );
    let scaler = scaler(folder.path(), &command("gentle", port, &script, "")).await;
    scale(&scaler, "gentle", Phase::Waking).await.unwrap();
    scale(&scaler, "gentle", Phase::Asleep).await.unwrap();
    assert_eq!(std::fs::read_to_string(done).unwrap(), "drained\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_takes_its_process_with_it_and_the_rest_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    // The one that detaches itself does not die with the shim.
    let script = format!("setsid sleep 1002 {} & exec python3 -m http.server {port} --bind 127.0.0.1", "");
    let resources =
        command("hello", port, &script, &format!("        env: {{PLACE: {:?}}}\n", folder.path()));
    let scaler = scaler(folder.path(), &resources).await;
    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    let awake = until(&scaler, "hello", |hello| hello.replicas == 1).await;
    let shim =
        processes_of(folder.path()).into_iter().find(|process| process.contains("process-shim run")).unwrap();
    std::process::Command::new("kill").args(["-9", shim.split_once(' ').unwrap().0]).status().unwrap();
    // Listed as gone at once; what the shim left behind is gone when that is written down.
    let gone = |hello: &Resource| hello.replicas == 0 && hello.version != awake.version;
    let ended = until(&scaler, "hello", gone).await;
    assert!(ended.endpoints.is_empty());
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_stay_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (port, other_port) = (free_port(), free_port());
    let demo = scaler(folder.path(), &service("hello", port, "")).await;
    let spaced =
        |port| process::ProcessScaler::new(context(folder.path(), "other/..", &service("hello", port, "")));
    let other = spaced(other_port).await.unwrap();
    scale(&demo, "hello", Phase::Waking).await.unwrap();
    assert_eq!(resource(&other, "hello").await.replicas, 0);
    // The same port in both.
    let same = spaced(port).await.unwrap();
    let listed = resource(&same, "hello").await;
    let mut wake = request("hello", &listed.version, Phase::Waking);
    wake.id = listed.id;
    match same.set_scale(&wake).await {
        Err(ScaleError::Terminal { reason }) => {
            assert!(reason.contains(&format!("port {port} is not free")), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    scale(&demo, "hello", Phase::Asleep).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_is_started_however_many_ask() {
    let folder = tempfile::tempdir().unwrap();
    let (port, starts) = (free_port(), folder.path().join("starts"));
    let script =
        format!("echo x >> {}; exec python3 -m http.server {port} --bind 127.0.0.1", starts.display());
    let resources = command("hello", port, &script, "");
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let scaler = scaler(folder.path(), &resources).await;
        asks.spawn(async move {
            loop {
                match scale(&scaler, "hello", Phase::Waking).await {
                    Err(ScaleError::Conflict) => {}
                    result => return result,
                }
            }
        });
    }
    while let Some(asked) = asks.join_next().await {
        asked.unwrap().unwrap();
    }
    assert_eq!(std::fs::read_to_string(&starts).unwrap(), "x\n");
    let scaler = scaler(folder.path(), &resources).await;
    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_is_given_up_leaves_a_process_that_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let scaler =
        scaler(folder.path(), &command("slow", free_port(), "sleep 1000", "        stopGracePeriod: 1s\n"))
            .await;
    let version = resource(&scaler, "slow").await.version;
    let wake = request("slow", &version, Phase::Waking);
    tokio::select! {
        result = scaler.set_scale(&wake) => panic!("it is never ready: {result:?}"),
        slow = until(&scaler, "slow", |slow| slow.replicas == 1) => assert_eq!(slow.endpoints.len(), 1),
    }
    scale(&scaler, "slow", Phase::Asleep).await.unwrap();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
}
