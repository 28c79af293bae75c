//! How late a node hears of what changes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use devcluster::proxy::{NO_LAG, ProxyOptions};

use crate::proxy_site::{READY, slice, with_nodes};

const LATE: Duration = Duration::from_millis(300);

fn endpoint(port: u16) -> SocketAddr {
    ([10, 244, 0, 1], port).into()
}

#[test]
fn each_node_is_late_by_its_own_lag() {
    with_nodes(ProxyOptions { lag: NO_LAG, ..ProxyOptions::default() }, |nodes| async move {
        nodes.put(slice("web", &[("web", 1)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(1, &[endpoint(1)]).await;
        nodes.proxy.set_lag(1, LATE..LATE * 2);
        let began = Instant::now();
        nodes.put(slice("web", &[("web", 2)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(0, &[endpoint(2)]).await;
        nodes.until_sends(1, &[endpoint(2)]).await;
        assert!(began.elapsed() >= LATE, "it knew after {:?}", began.elapsed());
    });
}

#[test]
fn changes_keep_their_order_whatever_their_lags() {
    with_nodes(ProxyOptions { lag: Duration::ZERO..LATE, ..ProxyOptions::default() }, |nodes| async move {
        const LAST: u16 = 20;
        let changes = async {
            for port in 1..=LAST {
                nodes.put(slice("web", &[("web", port)], &[("10.244.0.1", READY)])).await;
            }
        };
        let watched = async |node| {
            let mut known = 0;
            while known < LAST {
                let newer = |endpoints: &[SocketAddr]| {
                    endpoints.first().is_some_and(|endpoint| endpoint.port() != known)
                };
                nodes.proxy.until(node, nodes.web(node), newer).await;
                let port = nodes.proxy.endpoints(node, nodes.web(node))[0].port();
                assert!(port > known, "node {node} knew {known} before {port}");
                known = port;
            }
        };
        tokio::join!(changes, watched(0), watched(1));
    });
}

#[test]
fn a_frozen_node_hears_nothing_until_it_is_thawed() {
    with_nodes(ProxyOptions { lag: NO_LAG, ..ProxyOptions::default() }, |nodes| async move {
        nodes.put(slice("web", &[("web", 1)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(1, &[endpoint(1)]).await;
        nodes.proxy.freeze(1);
        // So many that a node that is not frozen has heard of the first.
        for port in 2..30 {
            nodes.put(slice("web", &[("web", port)], &[("10.244.0.1", READY)])).await;
            nodes.until_sends(0, &[endpoint(port)]).await;
        }
        nodes.until_sends(1, &[endpoint(1)]).await;
        nodes.proxy.thaw(1);
        nodes.until_sends(1, &[endpoint(29)]).await;
    });
}
