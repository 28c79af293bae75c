//! The commands, with the real daemons behind them.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output},
};

use e2e::{
    Namespace, Service, Site, binaries,
    load::{get, once},
    until,
};
use serde_json::Value;

/// `autoscaler` with a command. Not on the runtime's threads: the daemons' answers are waited for.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run = move || {
        let mut command = Command::new(binaries::folder().join("autoscaler"));
        command.args(arguments).env_remove("LISTEN_FDS").env_remove("RUST_LOG").output()
    };
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(run).await.unwrap().expect("starting the autoscaler");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn at(address: SocketAddr) -> String {
    format!("--admin-address={address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_wake_and_sleep_work_on_running_daemons() {
    let site = Site::new("commands-");
    let service = Service::new(&site, "hello");
    // It would be awake for an hour.
    site.configure(&Namespace::new("demo").window("1h").with(&service));
    let dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;
    let here = at(autoscaler.admin());
    until("the leader to have looked", || async {
        let resource = autoscaler.resource("demo", "hello").await;
        if resource["decision"] == "keep" { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;

    let (status, out, error) = run(&["wake", "demo/hello", &here]).await;
    assert_eq!(status, Some(0), "{out}{error}");
    assert!(out.starts_with("demo/hello is awake"), "{out}");
    // Not by a DLX that the user did not name.
    let (status, out, error) = run(&["wake", "demo/hello", "--admin-address=127.0.0.1:1"]).await;
    assert!(status == Some(1) && error.contains("name it with --dlx-address"), "{out}{error}");
    let (status, out, error) = run(&["list", &at(dlx.admin())]).await;
    assert!(status == Some(1) && error.contains("is not the admin port of an autoscaler"), "{out}{error}");
    let response = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 200);

    until("explain to say that it is active", || async {
        let (status, out, error) = run(&["explain", "demo/hello", &here]).await;
        let fits = out.contains("demo/hello (process): awake") && out.contains("requests_per_1h");
        if status == Some(0) && fits { Ok(()) } else { Err(format!("{status:?} {out}{error}")) }
    })
    .await;
    let (_, out, _) = run(&["explain", "demo/hello", &here, "--output", "json"]).await;
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answer["resources"][0]["name"], "hello", "{answer}");
    let (status, out, error) = run(&["list", &here]).await;
    let line = out.lines().find(|line| line.contains("demo/hello")).expect(&out);
    let words: Vec<_> = line.split_whitespace().collect();
    assert!(status == Some(0) && words[1] == "awake" && words[3..5] == ["1", "0"], "{out}{error}");
    assert!(out.ends_with("1 resource: 1 awake\n"), "{out}");
    let (_, out, _) = run(&["list", "--namespace=other", &here]).await;
    assert_eq!(out, "no resources in namespace other\n");
    let (_, out, _) = run(&["plan", &here]).await;
    assert!(out.contains("DLXs: 1") && out.contains("answers") && out.contains("demo/hello"), "{out}");

    // The test does not wait an hour.
    let (status, out, error) = run(&["sleep", "demo/hello", &here]).await;
    assert_eq!(status, Some(0), "{out}{error}");
    assert_eq!(site.state("demo", "hello"), "asleep");
    // As of now, not as of the last cycle.
    let (_, out, _) = run(&["list", "--output=json", "--namespace=demo", &here]).await;
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    let resource = &answer["resources"][0];
    assert_eq!((&resource["state"], &resource["in_flight"]), (&"asleep".into(), &0.into()), "{answer}");
    assert_eq!(answer["errors"], Value::Array(Vec::new()));
    let (status, out, _) = run(&["sleep", "demo/hello", &here, "--output=json"]).await;
    assert_eq!(
        (status, serde_json::from_str::<Value>(&out).unwrap()["outcome"].as_str()),
        (Some(0), Some("already_asleep"))
    );

    // Without an autoscaler it is woken all the same.
    autoscaler.stop().await;
    let dlx_here = format!("--dlx-address={}", dlx.admin());
    let (status, out, error) = run(&["wake", "demo/hello", &dlx_here]).await;
    assert_eq!(status, Some(0), "{out}{error}");
    let (status, _, error) = run(&["wake", "demo/unknown", &dlx_here]).await;
    assert_eq!(status, Some(1));
    assert!(error.contains("no plugin lists demo/unknown"), "{error}");
    for command in [&["explain", "demo/hello"][..], &["plan"], &["list"], &["sleep", "demo/hello"]] {
        let (status, _, error) = run(&[command, &[&here]].concat()).await;
        assert_eq!(status, Some(1), "{command:?}: {error}");
        assert!(error.contains(&here["--admin-address=".len()..]), "{command:?}: {error}");
    }
}

/// What is in flight is in flight for a person, too.
#[tokio::test(flavor = "multi_thread")]
async fn sleep_refuses_a_busy_resource() {
    let site = Site::new("busy-");
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").window("1h").with(&service));
    let dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;
    let here = at(autoscaler.admin());
    let front = site.front();
    let slow = tokio::spawn(async move { once(front, &get("hello.localhost", "/slow/600000", "1")).await });
    until("the request to be in flight", || async {
        let resource = dlx.resource("demo", "hello").await;
        if resource["in_flight"] == 1 { Ok(()) } else { Err(resource.to_string()) }
    })
    .await;
    let (status, _, error) = run(&["sleep", "demo/hello", &here]).await;
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("in flight"), "{error}");
    assert_eq!(dlx.resource("demo", "hello").await["in_flight"], 1);
    slow.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_validates_files_and_plugins() {
    let site = Site::new("check-");
    let file = |name: &str, text: &str| {
        let path = site.folder().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let plugins = format!("--plugins-dir={}", site.folder().join("plugins").display());
    let good = file("good.yaml", &Namespace::new("demo").with(&Service::new(&site, "hello")).text());
    let (status, out, error) = run(&["check", &good, &plugins]).await;
    assert_eq!((status, out), (Some(0), format!("{good}: valid, namespace demo\n")), "{error}");

    let bad = file("bad.yaml", "namespace: bad\nmetrics:\n  source: prometheus\n");
    let section =
        file("section.yaml", "namespace: sect\nplugins:\n  process:\n    resources:\n      - name: a\n");
    let (status, out, error) = run(&["check", &good, &bad, &section, &plugins]).await;
    assert_eq!(status, Some(78), "{error}");
    assert!(out.contains(&format!("{bad}:3:11: source prometheus wants the key \"url\"")), "{out}");
    assert!(out.contains(&format!("{section}:5:")), "{out}");
    assert!(error.contains("2 of 3 files"), "{error}");
    // Without the plugin only the file itself can be looked at.
    let (status, out, _) = run(&["check", &section, "--plugins-dir=/nowhere"]).await;
    assert_eq!(status, Some(0));
    assert!(out.contains("no plugin of kind process is loaded (not checked)"), "{out}");

    let (status, out, error) = run(&["plugins", &plugins]).await;
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("process.so") && out.contains("plugin interface 1."), "{out}");
    fs::write(site.folder().join("plugins/broken.so"), "no library").unwrap();
    let (status, out, _) = run(&["plugins", &plugins, "--output=json"]).await;
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (status, answer[0]["refused"].is_string(), &answer[1]["kind"]),
        (Some(78), true, &"process".into())
    );
}
