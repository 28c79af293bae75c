//! Namespace files change while the daemons run.

use e2e::{
    Daemon, Namespace, Service, Site,
    load::{get, once},
    until,
};

async fn served(site: &Site, host: &str, id: &str) {
    let response = once(site.front(), &get(host, "/", id)).await.expect("an answer");
    assert_eq!(response.status, 200, "{host}: {}", response.text());
}

/// Where a person looks at 3 a.m.
async fn reports(daemon: &Daemon, wanted: &str) {
    until(&format!("{} to report {wanted:?}", daemon.name()), || async {
        let resources = daemon.get("/api/v1/config").await.text();
        if resources.contains(wanted) { Ok(()) } else { Err(resources) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_change_is_reported_and_the_last_good_one_kept() {
    let site = Site::new("reload-");
    let first = Service::new(&site, "first");
    let second = Service::new(&site, "second");
    let good = Namespace::new("demo").window("1m").with(&first);
    site.configure(&good);
    let dlx = site.dlx().await;
    let autoscaler = site.autoscaler().await;
    served(&site, "first.localhost", "1").await;

    let mut id = 1;
    for (broken, said) in [
        (good.text().replace("scaleInterval: 200ms", "scaleInterval: 200"), "duration"),
        (format!("{}surprise: 1\n", good.text()), "surprise"),
        (good.text().replace("command:", "comand:"), "comand"),
        (String::new(), "demo.yaml"),
        (good.text().replace("  process:", "\tprocess:"), "demo.yaml"),
    ] {
        site.configure_raw("demo.yaml", broken.as_bytes());
        for daemon in [&dlx, &autoscaler] {
            reports(daemon, said).await;
        }
        id += 1;
        served(&site, "first.localhost", &id.to_string()).await;
    }

    // Corrected: the error goes, and what the file says now holds.
    site.configure(&good.clone().with(&second));
    until("the second resource to be served", || async {
        let response = once(site.front(), &get("second.localhost", "/", "corrected"))
            .await
            .map_err(|lost| lost.to_string())?;
        if response.status == 200 { Ok(()) } else { Err(response.text()) }
    })
    .await;
    for daemon in [&dlx, &autoscaler] {
        until("the error to be gone", || async {
            let resources = daemon.get("/api/v1/config").await.text();
            if resources.contains("demo.yaml:") { Err(resources) } else { Ok(()) }
        })
        .await;
    }
}

/// A resource that left the file is unknown; the others stay as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_leaves_the_file_is_served_no_more_and_the_others_go_on() {
    let site = Site::new("leaves-");
    let (first, second) = (Service::new(&site, "first"), Service::new(&site, "second"));
    let namespace = Namespace::new("demo").window("1m").with(&first);
    site.configure(&namespace.clone().with(&second));
    let _dlx = site.dlx().await;
    let answer = once(site.front(), &get("first.localhost", "/", "1")).await.expect("an answer");
    served(&site, "second.localhost", "2").await;
    site.configure(&namespace);
    until("the second resource to be unknown", || async {
        let response =
            once(site.front(), &get("second.localhost", "/", "3")).await.map_err(|lost| lost.to_string())?;
        if response.status == 404 { Ok(()) } else { Err(response.text()) }
    })
    .await;
    let again = once(site.front(), &get("first.localhost", "/", "4")).await.expect("an answer");
    assert_eq!(answer.header("x-run"), again.header("x-run"), "it was started again");
}
