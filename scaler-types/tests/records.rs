//! Records in files: many processes on one record, some of them killed.
#![allow(missing_docs)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use scaler_types::{
    Nonce, Phase, PluginContext, Record, ResourceId, Role, ScaleError, ScaleRequest, Target, Version,
    records::{Records, encode_name},
};
use tokio::time::timeout;

/// Longer than anything here takes.
const NEVER: Duration = Duration::from_secs(60);

fn context(state_dir: &Path) -> PluginContext {
    PluginContext {
        namespace: "demo".to_owned(),
        role: Role::Dlx,
        state_dir: state_dir.to_owned(),
        plugin_dir: PathBuf::new(),
        kubeconfig: None,
        coordination: scaler_types::Coordination::Files,
        daemon_namespace: None,
        service_ports: None,
        daemon_pod: None,
        dlx_service: "scaler-dlx".to_owned(),
        metrics_urls: Vec::new(),
        kind: "test".to_owned(),
        namespace_file: String::new(),
        namespace_file_text: String::new().into(),
    }
}

fn open(state_dir: &Path) -> Records<String> {
    Records::open(&context(state_dir)).unwrap()
}

fn id() -> ResourceId {
    ResourceId::new("demo", "one")
}

fn record(state: Phase) -> Record {
    Record { phase: state, nonce: Nonce::fresh(), reason: "a test".to_owned(), ..Record::default() }
}

fn request(version: &Version, target: Target) -> ScaleRequest {
    let state = if target == Target::Zero { Phase::Asleep } else { Phase::Waking };
    ScaleRequest {
        id: id(),
        target,
        version: version.clone(),
        record: record(state),
        deadline: NEVER,
        intercepted_for: Duration::ZERO,
        busy: Vec::new(),
    }
}

async fn wake(records: &Records<String>, up: &str) {
    let mut turn =
        records.begin(&request(&records.read(&id()).unwrap().version, Target::AtLeast(1))).await.unwrap();
    turn.started(up.to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_resource_nobody_has_written_on_is_active() {
    let folder = tempfile::tempdir().unwrap();
    let stored = open(folder.path()).read(&id()).unwrap();
    assert_eq!((stored.record, stored.up, stored.leaving), (Record::default(), None, None));
}

#[tokio::test]
async fn only_the_version_that_stands_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    let first = records.read(&id()).unwrap().version;
    let draining = record(Phase::Draining);
    let second = records.compare_and_set(&id(), &first, &draining).await.unwrap();
    assert_eq!(
        records.compare_and_set(&id(), &first, &record(Phase::Active)).await,
        Err(ScaleError::Conflict)
    );
    assert_eq!(records.begin(&request(&first, Target::Zero)).await.err(), Some(ScaleError::Conflict));
    let stored = records.read(&id()).unwrap();
    assert_eq!((stored.record, stored.version), (draining, second));
}

#[tokio::test]
async fn no_version_comes_back_after_its_file_was_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    let nobody_wrote = records.read(&id()).unwrap().version;
    let before = records.compare_and_set(&id(), &nobody_wrote, &record(Phase::Draining)).await.unwrap();
    fs::remove_file(folder.path().join("records/test/demo/one.json")).unwrap();
    let after = records.compare_and_set(&id(), &nobody_wrote, &record(Phase::Draining)).await.unwrap();
    assert_ne!(before, after);
}

#[tokio::test]
async fn what_is_put_to_zero_is_leaving_in_the_same_write() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    wake(&records, "run").await;
    let awake = records.read(&id()).unwrap();
    assert_eq!(awake.up.as_deref(), Some("run"));
    let mut turn = records.begin(&request(&awake.version, Target::Zero)).await.unwrap();
    let asleep = records.read(&id()).unwrap();
    assert_eq!(
        (asleep.record.phase, asleep.up.as_deref(), asleep.leaving.as_deref()),
        (Phase::Asleep, None, Some("run"))
    );
    assert_eq!((turn.up(), turn.leaving().map(String::as_str)), (None, Some("run")));
    assert!(
        turn.started("another".to_owned()).await.is_err(),
        "nothing is started before what is leaving was stopped"
    );
    turn.stopped().await.unwrap();
    let stopped = records.read(&id()).unwrap();
    assert_eq!(
        (stopped.leaving, stopped.version),
        (None, asleep.version),
        "a wake decided on the version still stands"
    );
}

#[tokio::test]
async fn a_wake_that_comes_during_a_sleep_waits_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (records, other) = (open(folder.path()), open(folder.path()));
    wake(&records, "run").await;
    let mut sleep =
        records.begin(&request(&records.read(&id()).unwrap().version, Target::Zero)).await.unwrap();
    let asleep = other.read(&id()).unwrap();
    let waking = tokio::spawn({
        let other = other.clone();
        async move {
            other
                .begin(&request(&asleep.version, Target::AtLeast(1)))
                .await
                .map(|turn| turn.leaving().cloned())
        }
    });
    let mut cursor = 0;
    while other.read(&id()).unwrap().record.phase != Phase::Waking {
        cursor = other.changed(cursor).await.cursor;
    }
    assert!(!waking.is_finished() && other.try_turn(&id()).unwrap().is_none());
    assert_eq!(other.read(&id()).unwrap().up, None, "the one that is being stopped is not listed");
    assert_eq!(sleep.started("late".to_owned()).await, Err(ScaleError::Conflict), "the record is the wake's");
    sleep.stopped().await.unwrap();
    drop(sleep);
    assert_eq!(waking.await.unwrap().unwrap(), None, "nothing is left to be stopped");
}

/// A resize while it is waking leaves the record as it is.
#[tokio::test]
async fn of_two_scales_with_one_record_the_later_one_has_the_last_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (records, other) = (open(folder.path()), open(folder.path()));
    wake(&records, "run").await;
    let held = records.try_turn(&id()).unwrap().unwrap();
    let begin = |records: &Records<String>, count: u32| {
        let stored = records.read(&id()).unwrap();
        let target = Target::Exactly(NonZeroU32::new(count).unwrap());
        let resize = ScaleRequest { record: stored.record, ..request(&stored.version, target) };
        let records = records.clone();
        tokio::spawn(async move { records.begin(&resize).await.err() })
    };
    let mut begun = Vec::new();
    for (records, count) in [(&records, 3), (&other, 5)] {
        let mut cursor = 0;
        let before = records.read(&id()).unwrap().version;
        begun.push(begin(records, count));
        while records.read(&id()).unwrap().version == before {
            cursor = records.changed(cursor).await.cursor;
        }
    }
    drop(held);
    let mut results = Vec::new();
    for one in begun {
        results.push(timeout(NEVER, one).await.unwrap().unwrap());
    }
    assert_eq!(results, [Some(ScaleError::Conflict), None]);
    assert_eq!(records.read(&id()).unwrap().up.as_deref(), Some("run"));
}

#[tokio::test]
async fn a_sleep_that_is_overtaken_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (records, other) = (open(folder.path()), open(folder.path()));
    wake(&records, "run").await;
    // Somebody has the turn, so that both wait for it.
    let held = records.try_turn(&id()).unwrap().unwrap();
    let sleep = tokio::spawn({
        let records = records.clone();
        async move { records.begin(&request(&records.read(&id()).unwrap().version, Target::Zero)).await.err() }
    });
    let mut cursor = 0;
    while records.read(&id()).unwrap().record.phase != Phase::Asleep {
        cursor = records.changed(cursor).await.cursor;
    }
    let wake = tokio::spawn({
        let other = other.clone();
        async move {
            let wish = request(&other.read(&id()).unwrap().version, Target::AtLeast(1));
            let mut turn = other.begin(&wish).await?;
            let old = turn.leaving().cloned();
            turn.stopped().await?;
            turn.started("new".to_owned()).await.map(|()| old)
        }
    });
    while records.read(&id()).unwrap().record.phase != Phase::Waking {
        cursor = records.changed(cursor).await.cursor;
    }
    drop(held);
    assert_eq!(timeout(NEVER, sleep).await.unwrap().unwrap(), Some(ScaleError::Conflict));
    assert_eq!(
        timeout(NEVER, wake).await.unwrap().unwrap(),
        Ok(Some("run".to_owned())),
        "the wake stops it first"
    );
    assert_eq!(records.read(&id()).unwrap().up.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_wait_for_a_turn_can_be_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (records, other) = (open(folder.path()), open(folder.path()));
    let held = records.try_turn(&id()).unwrap().unwrap();
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.begin(&request(&Version("0".into()), Target::AtLeast(1))).await.map(drop) }
    });
    let mut cursor = 0;
    while records.read(&id()).unwrap().record.phase != Phase::Waking {
        cursor = records.changed(cursor).await.cursor;
    }
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    drop(held);
    wake(&records, "run").await;
}

#[tokio::test]
async fn what_ended_by_itself_is_taken_out_once() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    wake(&records, "run").await;
    let before = records.read(&id()).unwrap();
    assert_eq!(records.ended(&id(), &"another".to_owned()).await, Ok(false));
    assert_eq!(records.ended(&id(), &"run".to_owned()).await, Ok(true));
    assert_eq!(records.ended(&id(), &"run".to_owned()).await, Ok(false));
    let after = records.read(&id()).unwrap();
    assert_eq!((after.up, after.record), (None, before.record));
    assert_ne!(after.version, before.version);
}

#[tokio::test]
async fn changes_are_named_and_none_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (records, writer) = (open(folder.path()), open(folder.path()));
    let names = ["one", "a/b", "..", "ä"];
    let writing = tokio::spawn(async move {
        for round in 1..=50 {
            for name in names {
                let id = ResourceId::new("demo", name);
                let version = writer.read(&id).unwrap().version;
                let record = Record { reason: round.to_string(), ..record(Phase::Active) };
                writer.compare_and_set(&id, &version, &record).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    // What one who reads only what is named comes to know.
    let mut known = std::collections::HashMap::new();
    let mut cursor = records.changed(0).await.cursor;
    let follow = async {
        while known.len() < names.len() || known.values().any(|round| round != "50") {
            let changed = records.changed(cursor).await;
            cursor = changed.cursor;
            for name in changed.names.unwrap() {
                known.insert(
                    name.clone(),
                    records.read(&ResourceId::new("demo", name)).unwrap().record.reason,
                );
            }
        }
    };
    timeout(NEVER, follow).await.expect("a change was missed");
    writing.await.unwrap();
    assert!(records.changed(cursor + 7).await.names.is_none(), "a cursor of somebody else's knows nothing");
}

#[test]
fn no_name_leaves_the_folder_and_no_two_share_a_file() {
    let names = [
        "..",
        ".",
        "a/b",
        "a%2fb",
        "A",
        "a",
        "/etc/passwd",
        "a\0b",
        "a b",
        "%",
        "a.json",
        "a.lock",
        ".hidden",
        "ä",
    ];
    let files: std::collections::HashSet<_> = names.iter().map(|name| encode_name(name).unwrap()).collect();
    assert_eq!(files.len(), names.len());
    for file in files {
        assert!(!file.starts_with('.') && !file.contains(['/', '\0']), "{file}");
    }
    encode_name("").unwrap_err();
    encode_name(&"ä".repeat(100)).unwrap_err();
}

#[tokio::test]
async fn a_record_that_is_not_ours_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    let path = folder.path().join("records/test/demo/one.json");
    fs::write(&path, "{\"version\": 3").unwrap();
    let error = format!("{:#}", records.read(&id()).unwrap_err());
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    let foreign = records.read(&ResourceId::new("other", "one")).unwrap_err().to_string();
    assert!(foreign.contains("other/one"), "{foreign}");
}

/// Starts and stops "something" that is up while the file `running` is there, for ever.
#[test]
#[ignore = "a program of the next test"]
fn a_daemon() {
    let Ok(folder) = env::var("SCALER_TEST_DAEMON") else { return };
    let (folder, running) = (PathBuf::from(&folder), PathBuf::from(folder).join("running"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    println!("ready");
    runtime.block_on(async {
        let records = open(&folder);
        loop {
            if let Err(error) = once(&records, &running).await {
                assert_eq!(error, ScaleError::Conflict);
            }
        }
    });
}

/// One turn, as a plugin takes it.
async fn once(records: &Records<String>, running: &Path) -> Result<(), ScaleError> {
    let now = records.read(&id()).unwrap();
    let target = if Nonce::fresh().0.is_multiple_of(2) { Target::Zero } else { Target::AtLeast(1) };
    let wish = request(&now.version, target);
    // Some waits are given up.
    let begin = records.begin(&wish);
    let mut turn = match timeout(Duration::from_micros(Nonce::fresh().0 % 3000), begin).await {
        Ok(turn) => turn?,
        Err(_) => return Ok(()),
    };
    let runs = fs::read_to_string(running).ok();
    if let Some(old) = turn.leaving() {
        if let Some(runs) = &runs {
            assert_eq!(runs, old, "what runs is not what was up");
            fs::remove_file(running).unwrap();
        }
        turn.stopped().await?;
    }
    if target == Target::Zero {
        return Ok(());
    }
    if turn.up().is_some_and(|up| runs.as_ref() == Some(up)) {
        return Ok(());
    }
    let token = Nonce::fresh().to_string();
    turn.started(token.clone()).await?;
    // As a shim's word to start: after it was written down. A second one that runs would be seen here.
    let temporary = running.with_extension(&token);
    fs::write(&temporary, &token).unwrap();
    fs::hard_link(&temporary, running).expect("two at the same time");
    fs::remove_file(temporary).unwrap();
    Ok(())
}

/// Killed when the test is over, well or not.
struct Daemon(Child);

impl Daemon {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn daemon(folder: &Path) -> Daemon {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_daemon", "--ignored", "--nocapture"])
        .env("SCALER_TEST_DAEMON", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the daemon did not start");
    Daemon(child)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_some_of_them_killed() {
    let folder = tempfile::tempdir().unwrap();
    let records = open(folder.path());
    let running = folder.path().join("running");
    let mut daemons: Vec<_> = (0..4).map(|_| daemon(folder.path())).collect();
    let mut version = 0_u64;
    for round in 0..60 {
        // A reader never sees half a file, an older version, or one up while another runs.
        for _ in 0..100 {
            let before = fs::read_to_string(&running).ok();
            let stored = records.read(&id()).unwrap();
            let seen = stored.version.0.parse().unwrap();
            assert!(seen >= version, "{seen} after {version}");
            version = seen;
            if let (Some(before), Some(up)) = (before, stored.up)
                && before != up
            {
                assert_ne!(
                    fs::read_to_string(&running).ok(),
                    Some(before),
                    "{up} is listed while another runs"
                );
            }
        }
        let at = usize::try_from(round % 4).unwrap();
        let mut killed = std::mem::replace(&mut daemons[at], daemon(folder.path()));
        assert_eq!(killed.0.try_wait().unwrap(), None, "a daemon failed");
        tokio::task::spawn_blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "the moment of the crash is what is drawn")]
            thread::sleep(Duration::from_micros(Nonce::fresh().0 % 20_000));
            killed.kill();
        })
        .await
        .unwrap();
    }
    for mut daemon in daemons {
        assert_eq!(daemon.0.try_wait().unwrap(), None, "a daemon failed");
        daemon.kill();
    }
    assert!(version > 200, "hardly anything happened: {version}");
    println!("{version} writes");
    // The locks are free, and the next ones find their way.
    for target in [Target::AtLeast(1), Target::Zero] {
        let mut turn = timeout(NEVER, records.begin(&request(&records.read(&id()).unwrap().version, target)))
            .await
            .unwrap()
            .unwrap();
        turn.stopped().await.unwrap();
    }
    let stored = records.read(&id()).unwrap();
    assert_eq!((stored.up, stored.leaving), (None, None));
}
