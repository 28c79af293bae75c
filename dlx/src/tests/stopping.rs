//! A DLX that stops while Services name it, and one that none names.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use scaler_types::{Backend, Interception, Port, Protocol, Resource, ServicePorts};
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::testing::{
    EVENT_TIMEOUT, Site, SiteOptions, free_range, local,
    plugin::{Plugin, endpoint},
    status, until, upstream,
};

/// Long enough not to end by itself.
const LONG: Duration = Duration::from_secs(3600);

fn intercepted_by(dlxs: &[&str]) -> Option<Interception> {
    let dlxs = dlxs.iter().map(|name| (*name).to_owned()).collect();
    Some(Interception {
        requested: true,
        backend: Backend::Dlx,
        in_sync: true,
        dlxs,
        ..Interception::default()
    })
}

fn intercepted(
    address: SocketAddr,
    listen: u16,
    dlxs: &'static [&'static str],
) -> impl FnOnce(&mut Resource) {
    move |resource| {
        resource.replicas = 1;
        resource.endpoints = vec![endpoint(address)];
        resource.ports = vec![Port { listen, target: None, protocol: Protocol::Http, guessed: false }];
        resource.interception = intercepted_by(dlxs);
    }
}

async fn site(dlxs: &'static [&'static str], grace: Duration) -> (Site, ServicePorts) {
    let ports = free_range(1);
    let (address, _) = upstream::echo(async || ()).await;
    let plugin = Plugin::at(address);
    plugin.add("a", intercepted(address, ports.first, dlxs));
    let options = SiteOptions {
        service_ports: Some(ports),
        endpoint_propagation_delay: grace,
        ..SiteOptions::default()
    };
    (Site::start(plugin, options).await, ports)
}

/// The first signal.
fn signal(site: &Site) -> JoinHandle<Instant> {
    let dlx = site.dlx.clone();
    let stopping = tokio::spawn(async move { dlx.stop(LONG).await });
    site.dlx.stopping.signalled.cancel();
    stopping
}

async fn ended(stopping: JoinHandle<Instant>) {
    tokio::time::timeout(EVENT_TIMEOUT, stopping).await.expect("it drains").unwrap();
}

async fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

async fn serves(site: &Site, ports: ServicePorts) {
    assert_eq!(status(&site.get_at(ports.first, "/").await), 200);
    assert_eq!(status(&site.get("a.test", "/").await), 200);
}

async fn drains(site: &Site, ports: ServicePorts) {
    until("shutting down", || site.dlx.server.draining.is_cancelled()).await;
    assert_eq!(site.ready(), Err("shutting down".to_owned()));
    for address in [local(ports.first), site.address] {
        let deadline = Instant::now() + EVENT_TIMEOUT;
        while !is_refused(address).await {
            assert!(Instant::now() < deadline, "{address} takes connections");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_services_name_is_unready_at_once_and_serves_until_none_does() {
    let (site, ports) = site(&["other", "test-1"], Duration::ZERO).await;
    assert_eq!(site.ready(), Ok(()));
    let stopping = signal(&site);
    assert_eq!(site.ready(), Err("stopping: 1 Service still names this DLX".to_owned()));
    for _ in 0..20 {
        serves(&site, ports).await;
    }
    assert!(!stopping.is_finished() && !site.dlx.server.draining.is_cancelled());
    site.plugin.change("a", |resource| resource.interception = intercepted_by(&["other"]));
    ended(stopping).await;
    drains(&site, ports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_no_service_names_drains_at_once() {
    let (site, ports) = site(&["other"], LONG).await;
    ended(signal(&site)).await;
    drains(&site, ports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dlx_that_a_service_named_a_moment_ago_accepts_for_the_propagation_delay() {
    let (site, ports) = site(&["test-1"], LONG).await;
    site.plugin.change("a", |resource| resource.interception = intercepted_by(&["other"]));
    until("it is seen", || site.dlx.stopping.interceptions.count() == 0).await;
    let stopping = signal(&site);
    let why = site.ready().unwrap_err();
    assert!(why.contains("the last Service stopped naming this DLX") && why.contains("1h"), "{why}");
    for _ in 0..20 {
        serves(&site, ports).await;
    }
    assert!(!stopping.is_finished() && !site.dlx.server.draining.is_cancelled());
}

/// The interception exists, and this DLX does not see it yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_port_is_looked_up_in_the_plugins() {
    let (site, ports) = site(&["other"], Duration::ZERO).await;
    site.plugin.stalled.send_replace(true);
    site.plugin.change("a", |resource| resource.interception = intercepted_by(&["test-1"]));
    assert_eq!(site.dlx.stopping.interceptions.count(), 0);
    let stopping = signal(&site);
    until("it is seen", || site.dlx.stopping.interceptions.count() == 1).await;
    serves(&site, ports).await;
    assert!(!stopping.is_finished() && !site.dlx.server.draining.is_cancelled());
    site.plugin.change("a", |resource| resource.interception = None);
    site.plugin.stalled.send_replace(false);
    ended(stopping).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_which_an_interception_ends_is_noticed() {
    for what in ["it names others", "it names nobody", "there is none", "its resource is gone"] {
        let (site, _) = site(&["test-1"], Duration::ZERO).await;
        let stopping = signal(&site);
        assert_eq!(site.dlx.stopping.interceptions.count(), 1);
        // As an open connection to it does.
        let _kept = site.resource("a");
        let route = match what {
            "it names others" => intercepted_by(&["b"]),
            "it names nobody" => intercepted_by(&[]),
            _ => None,
        };
        match what {
            "its resource is gone" => site.plugin.remove("a"),
            _ => drop(site.plugin.change("a", |resource| resource.interception = route)),
        }
        tokio::time::timeout(EVENT_TIMEOUT, stopping).await.expect(what).unwrap();
    }
}

/// Held requests and sleeping resources are served as before meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_dlx_wakes_resources() {
    let (site, ports) = site(&["test-1"], Duration::ZERO).await;
    site.plugin.change("a", |resource| {
        resource.record.phase = scaler_types::Phase::Asleep;
        resource.replicas = 0;
        resource.endpoints.clear();
    });
    until("it sleeps", || !site.resource("a").is_up()).await;
    let site = Arc::new(site);
    let stopping = signal(&site);
    serves(&site, ports).await;
    assert_eq!(site.plugin.set_scales.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(!stopping.is_finished());
}
