//! Several replicas of a process without a port: started, stopped, crashed, each by itself.
#![allow(missing_docs)]

mod common;

use std::{fs, path::Path, time::SystemTime};

use common::*;
use scaler_types::{Phase, Resource, ScaleError};
use tokio::time::timeout;

/// The workers that run, without their shims.
fn workers(folder: &Path) -> Vec<String> {
    let mut all = processes_of(folder);
    all.retain(|process| !process.contains("process-shim run") && process.contains("sh -c"));
    all
}

/// Waits until a file is there, and returns its text.
async fn written(path: &Path) -> String {
    let wait = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if !text.is_empty() => return text,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(NEVER, wait).await.unwrap_or_else(|_| panic!("{} is never written", path.display()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_zero_to_several_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("echo begun; sleep 1000; : {}", folder.path().display());
    let scaler = scaler(folder.path(), &worker("mailer", &script, "")).await;
    let asleep = resource(&scaler, "mailer").await;
    let scaling = asleep.scaling.unwrap();
    assert_eq!((asleep.replicas, scaling.max_replicas, scaling.last_scaled), (0, 9, None));

    scale(&scaler, "mailer", Phase::Waking).await.unwrap();
    assert_eq!((resource(&scaler, "mailer").await.replicas, workers(folder.path()).len()), (1, 1));
    let before = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    resize(&scaler, "mailer", 4).await.unwrap();
    let awake = resource(&scaler, "mailer").await;
    assert_eq!((awake.replicas, awake.endpoints.len(), workers(folder.path()).len()), (4, 0, 4));
    assert!(awake.scaling.unwrap().last_scaled.unwrap() >= before);
    for log in ["log", "replicas/1/log", "replicas/2/log", "replicas/3/log"] {
        let path = folder.path().join("process/demo/mailer").join(log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "begun\n", "{}", path.display());
    }
    // Another daemon's instance of the plugin.
    let other = common::scaler(folder.path(), &worker("mailer", &script, "")).await;
    let version = resource(&other, "mailer").await.version;
    resize(&other, "mailer", 4).await.unwrap();
    assert_ne!(resource(&scaler, "mailer").await.version, version, "the record was written");
    assert_eq!(workers(folder.path()).len(), 4);

    scale(&other, "mailer", Phase::Asleep).await.unwrap();
    assert_eq!(resource(&scaler, "mailer").await.replicas, 0);
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_down_lets_the_youngest_finish_and_waits_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("gate"), rustix::fs::Mode::RWXU).unwrap();
    // Asked to end, it finishes its job: here when the gate is opened.
    let script = format!(
        "trap 'cat {place}/gate > /dev/null; echo x >> {place}/finished; exit 0' TERM; echo $$ >> {place}/begun; \
         while :; do sleep 0.01; done"
    );
    let scaler = scaler(folder.path(), &worker("mailer", &script, "")).await;
    scale(&scaler, "mailer", Phase::Waking).await.unwrap();
    resize(&scaler, "mailer", 2).await.unwrap();
    let oldest = written(&folder.path().join("begun")).await.lines().next().unwrap().to_owned();
    resize(&scaler, "mailer", 1).await.unwrap();
    assert_eq!(resource(&scaler, "mailer").await.replicas, 1, "it is listed no longer");
    resize(&scaler, "mailer", 2).await.unwrap();
    let awake = until(&scaler, "mailer", |mailer| mailer.replicas == 2).await;
    assert!(!folder.path().join("finished").exists());
    let gate = folder.path().join("gate");
    tokio::task::spawn_blocking(move || fs::write(gate, "open")).await.unwrap().unwrap();
    assert_eq!(written(&folder.path().join("finished")).await, "x\n");
    until(&scaler, "mailer", |mailer| mailer.version != awake.version && mailer.replicas == 2).await;
    let left = workers(folder.path());
    assert!(left.iter().any(|process| process.starts_with(&format!("{oldest} "))), "{oldest}: {left:?}");
    for pid in left.iter().map(|process| process.split_once(' ').unwrap().0) {
        std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
    }
    until(&scaler, "mailer", |mailer| mailer.replicas == 0).await;
    until_none_is_left(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_crashes_is_listed_no_longer_and_the_others_run_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("sleep 1000; : {}", folder.path().display());
    let scaler = scaler(folder.path(), &worker("mailer", &script, "")).await;
    scale(&scaler, "mailer", Phase::Waking).await.unwrap();
    resize(&scaler, "mailer", 3).await.unwrap();
    let before = workers(folder.path());
    let pid = before[1].split_once(' ').unwrap().0;
    std::process::Command::new("kill").args(["-9", pid]).status().unwrap();
    // Listed as gone at once; how it ended is known when that is written down.
    until(&scaler, "mailer", |mailer| {
        mailer.replicas == 2 && mailer.status == "a replica was ended by signal 9"
    })
    .await;
    resize(&scaler, "mailer", 3).await.unwrap();
    let after = workers(folder.path());
    assert_eq!((after.len(), resource(&scaler, "mailer").await.status.as_str()), (3, ""));
    assert_eq!(after.iter().filter(|process| before.contains(process)).count(), 2, "{before:?} {after:?}");
    scale(&scaler, "mailer", Phase::Asleep).await.unwrap();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_at_once_has_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let scaler = scaler(folder.path(), &worker("mailer", "echo no broker; exit 3", "")).await;
    match scale(&scaler, "mailer", Phase::Waking).await {
        Err(ScaleError::Terminal { reason }) => {
            assert_eq!(reason, "exited with status 3; it last said: no broker");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(resource(&scaler, "mailer").await.replicas, 0);
    until_none_is_left(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_now_is_obeyed_once_for_each_value() {
    let folder = tempfile::tempdir().unwrap();
    let with = |wish: &str| worker("mailer", "sleep 1000", &format!("        wakeNow: {wish}\n"));
    let first = scaler(folder.path(), &with("1")).await;
    assert_eq!(resource(&first, "mailer").await.wake_now, "wakeNow: 1");
    scale(&first, "mailer", Phase::Waking).await.unwrap();
    assert_eq!(resource(&first, "mailer").await.wake_now, "");
    scale(&first, "mailer", Phase::Asleep).await.unwrap();
    assert_eq!(resource(&first, "mailer").await.wake_now, "", "it was obeyed");
    let second = scaler(folder.path(), &with("2")).await;
    assert_eq!(resource(&second, "mailer").await.wake_now, "wakeNow: 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_process_is_not_scaled_to_zero() {
    let folder = tempfile::tempdir().unwrap();
    let (port, busy) = (free_port(), folder.path().join("busy"));
    let script = format!(
        "exec python3 -m http.server {port} --bind 127.0.0.1 --directory {}",
        folder.path().display()
    );
    let extra = format!("        busyProbe: http://:{port}/busy\n        readyPath: /\n");
    let scaler = scaler(folder.path(), &command("hello", port, &script, &extra)).await;
    scale(&scaler, "hello", Phase::Waking).await.unwrap();
    fs::write(&busy, "a job").unwrap();
    let awake = resource(&scaler, "hello").await;
    match scale(&scaler, "hello", Phase::Asleep).await {
        Err(ScaleError::Busy { reason, .. }) => {
            assert!(reason.contains("answered 200: it is busy"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    let same = |hello: &Resource| (hello.replicas, hello.version.clone());
    assert_eq!(same(&resource(&scaler, "hello").await), same(&awake), "nothing is changed");
    fs::remove_file(&busy).unwrap();
    scale(&scaler, "hello", Phase::Asleep).await.unwrap();
    assert_eq!(resource(&scaler, "hello").await.replicas, 0);
}
