//! A plugin that panics, hangs or is slow in any of its calls: the daemons run on, and so do the resources of other plugins.

use e2e::{
    Namespace, Service, Site, binaries,
    load::{get, once},
    until,
};

const CALLS: [&str; 6] =
    ["get_resources", "set_scale", "get_config", "resolve_service_name", "changes", "compare_and_set"];

async fn goes_on_beside(how: &str) {
    let site = Site::new("misbehaving-");
    site.install(&binaries::folder().join("libmisbehaving.so"), "misbehaving.so");
    for (number, call) in CALLS.into_iter().enumerate() {
        let service = Service::new(&site, &format!("good{number}"));
        let section = format!(
            "  misbehaving:\n    hosts: [bad{number}.localhost]\n    {call}: {how}\n    delay: 500ms\n"
        );
        site.configure(&Namespace::new(&format!("n{number}")).plugin(&section).with(&service));
    }
    let dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;
    let bad: Vec<_> = (0..CALLS.len())
        .map(|number| {
            let front = site.front();
            tokio::spawn(
                async move { once(front, &get(&format!("bad{number}.localhost"), "/", "bad")).await },
            )
        })
        .collect();
    for (number, call) in CALLS.into_iter().enumerate() {
        let response =
            once(site.front(), &get(&format!("good{number}.localhost"), "/", call)).await.expect("an answer");
        assert_eq!(response.status, 200, "beside a plugin whose {call} is {how}: {}", response.text());
    }
    for number in 0..CALLS.len() {
        site.state_is(&format!("n{number}"), &format!("good{number}"), "asleep").await;
    }
    for daemon in [&dlx, &autoscaler] {
        assert_eq!(daemon.get("/healthz").await.status, 200);
    }
    for request in bad {
        request.abort();
    }
    // Neither the drain nor the end waits for a plugin that does not answer.
    autoscaler.stop().await;
    dlx.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_go_on_beside_a_plugin_that_panics() {
    goes_on_beside("panic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_go_on_beside_a_plugin_that_hangs() {
    goes_on_beside("hang").await;
}

/// Its threads are gone for good after two such calls: none of its other calls is answered either.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_go_on_beside_a_plugin_that_blocks_its_threads() {
    goes_on_beside("block").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_go_on_beside_a_plugin_that_is_slow() {
    goes_on_beside("slow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_go_on_beside_a_plugin_that_answers_with_errors() {
    goes_on_beside("error").await;
}

/// `cargo xtask` shows which files were not loaded; so do the admin port and a metric.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_plugin_is_skipped_and_reported() {
    let site = Site::new("noplugin-");
    std::fs::write(site.folder().join("plugins/bad.so"), "no library").unwrap();
    let service = Service::new(&site, "hello");
    site.configure(&Namespace::new("demo").with(&service));
    let dlx = site.dlx().await;
    let response = once(site.front(), &get("hello.localhost", "/", "1")).await.expect("an answer");
    assert_eq!(response.status, 200);
    until("bad.so to be reported", || async {
        let metrics = dlx.metrics().await;
        let found = metrics.samples("scaler_plugin_loaded", &["bad.so"]).any(|(_, loaded)| loaded == 0.0);
        if found { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    let plugins = dlx.get("/api/v1/plugins").await.json();
    let reason = plugins["rejected"][0]["reason"].as_str().unwrap_or_default();
    assert!(!reason.is_empty(), "{plugins}");
}
