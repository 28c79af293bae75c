//! A real plugin running for real namespace files, while they change. The plugin is `misbehaving`, plugin-host's fixture.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use daemon::{
    admin::Admin,
    exit::Misconfigured,
    flags::CommonFlags,
    plugin_manager::{PluginManager, Served},
    settings::SettingsLayer,
    telemetry,
};
use scaler_types::Role;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
}

/// Folders for plugins, files and state.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["plugins", "config", "state"] {
            fs::create_dir(host.path(name)).unwrap();
        }
        fs::copy(misbehaving(), host.path("plugins/misbehaving.so")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path("config").join(name), text).unwrap();
    }

    async fn start_with(&self, more: &[&str]) -> anyhow::Result<PluginManager> {
        self.start_as(Role::Dlx, more).await
    }

    async fn start_as(&self, role: Role, more: &[&str]) -> anyhow::Result<PluginManager> {
        let (plugins, state) = (self.path("plugins"), self.path("state"));
        let own =
            ["daemon", "--plugins-dir", plugins.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let flags = Flags::try_parse_from(own.iter().chain(more)).unwrap().common;
        PluginManager::start(&flags, SettingsLayer::default(), role, CancellationToken::new()).await
    }

    async fn start(&self) -> anyhow::Result<PluginManager> {
        self.start_with(&["--config", self.path("config").to_str().unwrap()]).await
    }
}

fn misbehaving() -> PathBuf {
    built("misbehaving", "libmisbehaving.so")
}

/// The library that cargo builds of this package.
fn built(package: &str, library: &str) -> PathBuf {
    // `cargo xtask` has built it: a build of this one package wants other features of what it depends on, and builds all
    // of that again.
    if let Some(folder) = std::env::var_os("SCALER_E2E_BIN").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(folder).join(library);
    }
    let status =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--package", package]).status().unwrap();
    assert!(status.success());
    // target/debug/deps/this-test
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join(library)
}

fn refused(result: anyhow::Result<PluginManager>) -> String {
    let error = result.err().expect("it is refused");
    assert!(error.is::<Misconfigured>(), "{error:#}");
    error.to_string()
}

async fn next(served: &mut watch::Receiver<Arc<[Served]>>) -> Arc<[Served]> {
    served.changed().await.unwrap();
    Arc::clone(&served.borrow_and_update())
}

/// What outsiders see of a plugin manager.
struct Outside {
    address: std::net::SocketAddr,
}

impl Outside {
    fn of(plugin_manager: &PluginManager) -> Self {
        let mut registry = telemetry::registry("dlx");
        plugin_manager.register(&mut registry);
        let admin = plugin_manager.routes(Admin::new(registry, None));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin.serve(listener));
        Self { address }
    }

    async fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Asks again and again until the answer has `part`: a change that changes nothing served tells nobody.
    async fn shows(&self, path: &str, part: &str) -> String {
        loop {
            let answer = self.get(path).await;
            if answer.contains(part) {
                return answer;
            }
            #[expect(clippy::disallowed_methods, reason = "asking again is all an outsider can do")]
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn an_instance_stays_as_long_as_its_section_does() {
    let host = Host::new();
    host.write("demo.yaml", "namespace: demo\nplugins: {misbehaving: {hosts: [a.localhost]}}\n");
    let plugin_manager = host.start().await.unwrap();
    let mut served = plugin_manager.served();
    let first = Arc::clone(&served.borrow_and_update());
    assert_eq!((first.len(), &*first[0].namespace, first[0].instance.kind()), (1, "demo", "misbehaving"));
    assert_eq!(first[0].settings.hold_timeout, Duration::from_secs(50));

    // Settings change, the section's place and looks too, what it says does not: the same instance.
    let text = "# demo\nnamespace: demo\ndlx:\n  holdTimeout: 9s\nplugins:\n  misbehaving:\n    hosts: # one\n    - a.localhost\n";
    host.write("demo.yaml", text);
    let second = next(&mut served).await;
    assert!(*second[0].instance == *first[0].instance);
    assert_eq!(second[0].settings.hold_timeout, Duration::from_secs(9));

    // The file gets another name: the same instance.
    fs::rename(host.path("config/demo.yaml"), host.path("config/other.yaml")).unwrap();
    let outside = Outside::of(&plugin_manager);
    outside.shows("/api/v1/config", "other.yaml").await;
    assert!(served.borrow().iter().zip(second.iter()).all(|(now, before)| *now.instance == *before.instance));

    // The section changes: another instance, and its resource is told by it.
    host.write("other.yaml", &text.replace("a.localhost", "b.localhost"));
    let third = next(&mut served).await;
    assert!(*third[0].instance != *first[0].instance);
    assert_eq!(third[0].instance.get_resources().await.unwrap().readable[0].hosts, ["b.localhost"]);

    // A second namespace comes, and the first one goes.
    host.write("more.yml", "namespace: more\n");
    let fourth = next(&mut served).await;
    let namespaces =
        |served: &[Served]| served.iter().map(|served| served.namespace.clone()).collect::<Vec<_>>();
    assert_eq!(namespaces(&fourth), ["more", "demo"]);
    fs::remove_file(host.path("config/other.yaml")).unwrap();
    assert_eq!(namespaces(&next(&mut served).await), ["more"]);
    plugin_manager.stop().await;
}

#[tokio::test]
async fn a_broken_change_is_reported_and_the_running_instance_stays() {
    let host = Host::new();
    let good =
        "namespace: demo\ndlx:\n  holdTimeout: 9s\nplugins:\n  misbehaving:\n    hosts: [a.localhost]\n";
    host.write("demo.yaml", good);
    let plugin_manager = host.start().await.unwrap();
    let mut served = plugin_manager.served();
    let first = Arc::clone(&served.borrow_and_update());
    let outside = Outside::of(&plugin_manager);
    let metric = format!("scaler_config_errors{{file=\"{}\"}}", host.path("config/demo.yaml").display());
    assert!(outside.get("/metrics").await.contains(&format!("{metric} 0\n")));

    for (broken, told) in [
        (good.replace("9s", "nine"), "demo.yaml:3:16: \\\"nine\\\" is not a duration"),
        // The plugin's own refusals: what it cannot read, and what it does not like.
        (good.replace("hosts", "host"), "demo.yaml:6:5: unknown key \\\"host\\\", expected one of hosts"),
        (good.replace("    hosts", "    new: error\n    hosts"), "demo.yaml:6: plugin misbehaving: "),
        (good.replace("    hosts", "    new: panic\n    hosts"), "panicked"),
        ("plugins: []\n".to_owned(), "demo.yaml:1:10: not a map"),
        (String::new(), "demo.yaml:1:1: the file is empty"),
    ] {
        host.write("demo.yaml", &broken);
        let seen = outside.shows("/api/v1/config", told).await;
        assert!(seen.contains("\"holdTimeout\":\"9s\""), "the settings stay: {seen}");
        assert!(outside.get("/metrics").await.contains(&format!("{metric} 1\n")));
        assert!(!served.has_changed().unwrap());
        assert!(*served.borrow()[0].instance == *first[0].instance);
    }
    assert_eq!(first[0].instance.get_resources().await.unwrap().readable[0].hosts, ["a.localhost"]);

    host.write("demo.yaml", &good.replace("9s", "8s"));
    let mended = next(&mut served).await;
    assert!(*mended[0].instance == *first[0].instance);
    assert_eq!(mended[0].settings.hold_timeout, Duration::from_secs(8));
    assert!(outside.get("/metrics").await.contains(&format!("{metric} 0\n")));
}

#[tokio::test]
async fn a_plugin_that_hangs_holds_up_no_other_namespace() {
    let host = Host::new();
    host.write("a.yaml", "namespace: a\n");
    let plugin_manager = host.start().await.unwrap();
    let mut served = plugin_manager.served();
    assert_eq!(served.borrow_and_update().len(), 1);
    let outside = Outside::of(&plugin_manager);
    host.write("b.yaml", "namespace: b\nplugins:\n  misbehaving: {new: hang}\n");
    outside.shows("/api/v1/config", "b.yaml").await;
    host.write("a.yaml", "namespace: a\ndlx: {holdTimeout: 9s}\n");
    let now = next(&mut served).await;
    assert_eq!((now.len(), &*now[0].namespace), (1, "a"));
    assert_eq!(now[0].settings.hold_timeout, Duration::from_secs(9));
    // What was begun is overtaken.
    host.write("b.yaml", "namespace: b\n");
    assert_eq!(next(&mut served).await.len(), 2);
}

#[tokio::test]
async fn a_start_that_was_overtaken_is_not_taken() {
    let host = Host::new();
    host.write("a.yaml", "namespace: a\n");
    let plugin_manager = host.start().await.unwrap();
    let mut served = plugin_manager.served();
    assert_eq!(served.borrow_and_update().len(), 1);
    let outside = Outside::of(&plugin_manager);
    let slow = |name: &str| {
        let section = format!("{{new: slow, delay: 1s, hosts: [{name}.old]}}");
        format!("namespace: {name}\nplugins:\n  misbehaving: {section}\n")
    };
    host.write("b.yaml", &slow("b"));
    outside.shows("/api/v1/config", "b.yaml").await;
    host.write("b.yaml", "namespace: b\nplugins:\n  misbehaving: {hosts: [b.new]}\n");
    assert_eq!(next(&mut served).await.len(), 2);
    // As slow and later: when it is there, what was overtaken has come too.
    host.write("c.yaml", &slow("c"));
    let all = loop {
        let now = next(&mut served).await;
        if now.len() == 3 {
            break now;
        }
    };
    assert_eq!(all[1].instance.get_resources().await.unwrap().readable[0].hosts, ["b.new"]);
}

#[tokio::test]
async fn one_broken_file_at_start_is_its_own_affair() {
    let host = Host::new();
    host.write("a.yaml", "namespace: a\n");
    host.write("b.yaml", "namespace: b\nplugins:\n  misbehaving: {new: error}\n");
    host.write("c.yaml", "namespace: c\ndlx: 1\n");
    host.write("d.yaml", "namespace: d\nplugins:\n  deployment: {}\n");
    let plugin_manager = host.start().await.unwrap();
    let namespaces =
        plugin_manager.served().borrow().iter().map(|served| served.namespace.clone()).collect::<Vec<_>>();
    assert_eq!(namespaces, ["a", "d"]);
    let seen = Outside::of(&plugin_manager).get("/api/v1/config").await;
    for told in [
        "b.yaml:3: plugin misbehaving: ",
        "c.yaml:2:6: not a map",
        "d.yaml:3: no plugin of the kind \\\"deployment\\\" is loaded, expected one of misbehaving",
    ] {
        assert!(seen.contains(told), "{told}: {seen}");
    }
    // With --strict it is not.
    let told =
        refused(host.start_with(&["--strict", "--config", host.path("config").to_str().unwrap()]).await);
    assert!(told.contains("b.yaml:3: ") && told.contains("c.yaml:2:6: "), "{told}");
}

/// It is no problem either: one image serves files of several kinds.
#[tokio::test]
async fn a_plugin_that_a_file_does_not_configure_is_not_started() {
    let host = Host::new();
    host.write("a.yaml", "namespace: a\n");
    host.write("picky.yaml", "namespace: picky\n");
    let plugin_manager = host.start().await.unwrap();
    let outside = Outside::of(&plugin_manager);
    let mut served = plugin_manager.served();
    let namespaces =
        |served: &Arc<[Served]>| served.iter().map(|served| served.namespace.clone()).collect::<Vec<_>>();
    assert_eq!(namespaces(&served.borrow_and_update()), ["a"]);
    assert_eq!(outside.get("/readyz").await, "ready\n");
    assert_eq!(outside.get("/api/v1/problems").await, "{\"problems\":[]}\n");
    // Its section comes, is refused, and goes.
    host.write("picky.yaml", "namespace: picky\nplugins: {misbehaving: {}}\n");
    assert_eq!(namespaces(&next(&mut served).await), ["a", "picky"]);
    host.write("picky.yaml", "namespace: picky\nplugins: {misbehaving: {new: error}}\n");
    outside.shows("/readyz", "new fails, as configured").await;
    host.write("picky.yaml", "namespace: picky\n");
    assert_eq!(namespaces(&next(&mut served).await), ["a"]);
    assert_eq!(outside.get("/readyz").await, "ready\n");
}

#[tokio::test]
async fn nothing_to_serve_ends_the_daemon() {
    let host = Host::new();
    let told = refused(host.start().await);
    assert!(told.contains("there is no namespace file in it"), "{told}");
    host.write("demo.yaml", "namespace: picky\n");
    let told = refused(host.start().await);
    let expected = "no namespace file configures any of the plugins, expected one of plugins.misbehaving";
    assert_eq!(told, expected);
    host.write("demo.yaml", "namespace: demo\nplugins:\n  misbehaving: {host: 1}\n");
    let told = refused(host.start().await);
    assert!(told.contains("demo.yaml:3:17: unknown key \"host\""), "{told}");
    let told = refused(host.start_with(&["--config", "/nowhere/demo.yaml"]).await);
    assert!(told.contains("/nowhere/demo.yaml: No such file"), "{told}");
    let told = refused(host.start_with(&["--namespace", "../demo"]).await);
    assert!(told.contains("--namespace: \"../demo\" is not a namespace"), "{told}");
}

#[tokio::test]
async fn plugins_that_cannot_be_loaded() {
    let host = Host::new();
    fs::write(host.path("plugins/a.so"), "not a library").unwrap();
    let plugin_manager = host.start_with(&["--namespace", "demo"]).await.unwrap();
    assert_eq!(plugin_manager.rejected().len(), 1);
    assert_eq!(plugin_manager.served().borrow()[0].namespace, "demo");
    let outside = Outside::of(&plugin_manager);
    let metrics = outside.get("/metrics").await;
    let line = |file: &str, kind: &str, value: u32| {
        format!(
            "scaler_plugin_loaded{{file=\"{}\",kind=\"{kind}\"}} {value}\n",
            host.path("plugins").join(file).display()
        )
    };
    assert!(metrics.contains(&line("misbehaving.so", "misbehaving", 1)), "{metrics}");
    assert!(metrics.contains(&line("a.so", "", 0)), "{metrics}");
    let seen = outside.get("/api/v1/plugins").await;
    assert!(seen.contains("a.so") && seen.contains("not an ELF library"), "{seen}");

    let told = refused(host.start_with(&["--namespace", "demo", "--strict"]).await);
    assert!(told.contains("a.so") && told.contains("not an ELF library"), "{told}");
    fs::remove_file(host.path("plugins/misbehaving.so")).unwrap();
    let told = refused(host.start_with(&["--namespace", "demo"]).await);
    assert!(told.contains("nothing was loaded") && told.contains("a.so"), "{told}");
    fs::remove_file(host.path("plugins/a.so")).unwrap();
    let told = refused(host.start_with(&["--namespace", "demo"]).await);
    assert!(told.contains("it holds no plugin"), "{told}");
    fs::remove_dir(host.path("plugins")).unwrap();
    let told = refused(host.start_with(&["--namespace", "demo"]).await);
    assert!(told.contains(Path::new("plugins").to_str().unwrap()) && told.contains("No such file"), "{told}");
}

#[tokio::test]
async fn what_a_plugin_warns_of_is_shown_though_the_daemon_is_ready() {
    let host = Host::new();
    host.write("demo.yaml", "namespace: demo\nplugins: {misbehaving: {warnings: [no label is there]}}\n");
    let plugin_manager = host.start().await.unwrap();
    let outside = Outside::of(&plugin_manager);
    assert_eq!(outside.get("/readyz").await, "ready\nproblem: no label is there\n");
    assert!(outside.get("/api/v1/config").await.contains(r#""warnings":["no label is there"]"#));
    host.write("demo.yaml", "namespace: demo\n");
    outside.shows("/api/v1/config", r#""warnings":[]"#).await;
    assert_eq!(outside.get("/readyz").await, "ready\n");
}

#[tokio::test]
async fn plugins_know_where_the_metrics_of_every_file_come_from() {
    let host = Host::new();
    let prometheus = |host: &str| {
        format!(
            "namespace: shop\nmetrics: {{source: prometheus, url: 'http://{host}', scrapeInterval: 15s, queries: {{requests: {{query: 'increase(a[$window])', sampleCountQuery: 'count_over_time(a[$window])'}}}}}}\n"
        )
    };
    host.write("demo.yaml", "namespace: demo\n");
    host.write("shop.yaml", &prometheus("first:9090"));
    let config = host.path("config");
    let flags = ["--coordinate-by", "leases", "--config", config.to_str().unwrap()];
    let plugin_manager = host.start_with(&flags).await.unwrap();
    let outside = Outside::of(&plugin_manager);
    let told = |url: &str| format!("ready\nproblem: metrics come from http://{url}\n");
    assert_eq!(outside.get("/readyz").await, told("first:9090"));
    // Every instance is started anew with it.
    let demo =
        |served: &[Served]| served.iter().find(|one| one.namespace == "demo").unwrap().instance.clone();
    let mut served = plugin_manager.served();
    let before = demo(&served.borrow_and_update());
    host.write("shop.yaml", &prometheus("second:9090"));
    while *demo(&served.borrow_and_update()) == *before {
        served.changed().await.unwrap();
    }
    outside.shows("/readyz", "second").await;
}

/// What is wrong for one namespace, or with one plugin, takes nothing from the others: it is told, and the daemon stays ready.
#[tokio::test]
async fn a_problem_of_one_file_is_reported_and_the_others_are_served() {
    let host = Host::new();
    fs::write(host.path("plugins/text.so"), "no library").unwrap();
    host.write("broken.yaml", "namespace: broken\ncolour: red\n");
    host.write("failing.yaml", "namespace: failing\nplugins: {misbehaving: {new: error}}\n");
    host.write("good.yaml", "namespace: good\n");
    host.write("panicking.yaml", "namespace: panicking\nplugins: {misbehaving: {get_config: task}}\n");
    host.write("strange.yaml", "namespace: strange\nplugins: {unknown: {}}\n");
    let plugin_manager = host.start().await.unwrap();
    let (outside, mut served) = (Outside::of(&plugin_manager), plugin_manager.served());
    assert!(served.borrow_and_update().iter().any(|served| served.namespace == "good"));
    // A panic is told by the plugin's thread.
    let page = outside.shows("/readyz", "panicked").await;
    let mut lines = page.lines();
    assert_eq!(lines.next(), Some("ready"));
    for parts in [
        ["plugin not loaded: ", "text.so", "not an ELF library"],
        ["broken.yaml:2:1: ", "unknown key \"colour\"", "(its namespace is not managed)"],
        ["failing.yaml:2:", "new fails, as configured", "(its last valid contents stay in effect)"],
        ["strange.yaml:2:", "no plugin of the kind \"unknown\" is loaded", "expected"],
        ["plugin misbehaving panicked", "started: 1)", "a task of get_config panics, as configured"],
    ] {
        let line = lines.next().unwrap_or_else(|| panic!("no {parts:?} in {page}"));
        assert!(
            line.starts_with("problem: ") && parts.iter().all(|part| line.contains(part)),
            "{parts:?}: {line}"
        );
    }
    assert_eq!(lines.next(), None, "{page}");
    let listed: serde_json::Value = serde_json::from_str(&outside.get("/api/v1/problems").await).unwrap();
    assert_eq!(listed["problems"].as_array().map(Vec::len), Some(5), "{listed}");
    let metrics = outside.get("/metrics").await;
    assert!(metrics.contains("scaler_plugin_panics_total{kind=\"misbehaving\"} 1"), "{metrics}");

    host.write("broken.yaml", "namespace: broken\n");
    next(&mut served).await;
    let page = outside.get("/readyz").await;
    assert!(page.contains("failing.yaml") && !page.contains("broken.yaml"), "{page}");
}

#[tokio::test]
async fn the_autoscaler_has_a_metric_source_for_each_file_and_replaces_it_with_its_section() {
    let host = Host::new();
    fs::create_dir(host.path("plugins/metric-sources")).unwrap();
    let library = built("misbehaving-source", "libmisbehaving_source.so");
    fs::copy(library, host.path("plugins/metric-sources/source.so")).unwrap();
    let file = |section: &str| {
        host.write(
            "demo.yaml",
            &format!("namespace: demo\nmetricSources:\n{section}plugins: {{misbehaving: {{}}}}\n"),
        );
    };
    file("  misbehaving-source: {read: slow}\n");
    let config = host.path("config");
    let arguments = ["--config", config.to_str().unwrap()];

    // A DLX reads the section, and neither loads nor misses a metric source.
    let dlx = host.start_as(Role::Dlx, &arguments).await.unwrap();
    assert_eq!(dlx.problems(), [""; 0]);
    assert!(dlx.served().borrow()[0].metric_sources.running().is_empty());

    let autoscaler = host.start_as(Role::Autoscaler, &arguments).await.unwrap();
    let outside = Outside::of(&autoscaler);
    assert_eq!(autoscaler.problems(), [""; 0]);
    let mut sources = autoscaler.served().borrow()[0].metric_sources.clone();
    let first = sources.route("test://3").unwrap();
    let read = first.read(&["test://3".to_owned()]).await.unwrap();
    assert_eq!(read[0].as_ref().unwrap().waiting, Some(3));
    let missing = sources.route("redis://h/a").unwrap_err().to_string();
    assert_eq!(missing, "no metric source reads redis://...: put its library into plugins/metric-sources");
    let listed = outside.get("/api/v1/plugins").await;
    assert!(listed.contains(r#""interface":"metric source""#), "{listed}");
    let shown = outside.get("/api/v1/config").await;
    assert!(shown.contains(r#""schemes":["test","other"]"#), "{shown}");

    // Refused, by the source itself: it stays as it was, and the line is shown.
    file("  misbehaving-source: {reed: ok}\n");
    let problem = "demo.yaml:3:24: unknown key \\\"reed\\\", expected one of new, read, changes, stop";
    outside.shows("/api/v1/problems", problem).await;
    assert_eq!(sources.route("test://3").as_ref(), Ok(&first));

    file("  misbehaving-source: {read: error}\n  none: {}\n");
    sources.changed().await;
    let second = sources.route("test://3").unwrap();
    assert!(*second != *first);
    assert_eq!(
        second.read(&["test://3".to_owned()]).await.unwrap_err().to_string(),
        "read fails, as configured"
    );
    let problem = "demo.yaml:4: no metric source \\\"none\\\" is loaded, expected one of misbehaving-source";
    outside.shows("/readyz", &problem.replace('\\', "")).await;
    assert_eq!(autoscaler.served().borrow().len(), 1, "a metric source is no resource-scaler");
}
