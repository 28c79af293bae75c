//! Where a node's service proxy sends connections, and what becomes of them.

use std::io::ErrorKind;

use devcluster::proxy::{Counts, NO_LAG, ProxyOptions, ServiceProxy};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    proxy_site::{Endpoint, MANY, Nodes, READY, greeting, rest_of, slice, with_nodes},
    site::PATIENCE,
};

fn test<T: Future<Output = ()>>(test: impl FnOnce(Nodes) -> T) {
    with_nodes(ProxyOptions { lag: NO_LAG, ..ProxyOptions::default() }, test);
}

#[test]
fn every_ready_endpoint_of_every_slice_takes_connections_by_its_slices_port() {
    test(|nodes| async move {
        let endpoints = ["10.244.0.1:1000", "10.244.0.2:1000", "10.244.0.2:2000", "10.244.0.1:3000"];
        let mut listening = Vec::new();
        for address in endpoints {
            listening.push(Endpoint::listen(address).await);
        }
        let unready = [false, false, false];
        nodes
            .put(slice(
                "a",
                &[("web", 1000), ("other", 3000)],
                &[("10.244.0.1", READY), ("10.244.0.9", unready)],
            ))
            .await;
        // Another address family, another Service's, and one without a Service: none of them counts.
        let mut other = slice("b", &[("web", 4000)], &[("10.244.0.1", READY)]);
        other["metadata"]["labels"] = json!({"kubernetes.io/service-name": "other"});
        nodes.put(other).await;
        nodes.put(json!({
            "metadata": {"name": "c", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv6",
            "ports": [{"name": "web", "port": 1000}], "endpoints": [{"addresses": ["fd00::1"]}],
        })).await;
        // Conditions that are not said: it is ready.
        nodes.put(json!({
            "metadata": {"name": "d", "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "another"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 2000}], "endpoints": [{"addresses": ["10.244.0.2"]}],
        })).await;
        for node in 0..nodes.proxy.nodes() {
            nodes.until_sends(node, &[listening[0].address, listening[2].address]).await;
            assert_eq!(nodes.met(nodes.web(node)).await, [1000, 2000].into(), "node {node}");
            let other = ServiceProxy::address(node, &nodes.service, 81);
            assert_eq!(nodes.met(other).await, [3000].into(), "node {node}");
        }
        assert_ne!(nodes.web(0), nodes.web(1));
        let cluster_ip = nodes.service.spec.as_ref().unwrap().cluster_ip.clone().unwrap();
        assert_eq!(nodes.web(0).ip().to_string(), cluster_ip, "node 0's is the real one");
    });
}

#[test]
fn a_node_port_leads_to_the_services_endpoints_on_each_node() {
    test(|nodes| async move {
        let endpoint = Endpoint::listen("10.244.0.1:1000").await;
        nodes.put(slice("web", &[("web", 1000)], &[("10.244.0.1", READY)])).await;
        let port = json!({"name": "web", "port": 80, "nodePort": 30080});
        let _: Service =
            nodes.site.patch("web", json!({"spec": {"type": "NodePort", "ports": [port]}})).await;
        let of_nodes = ["127.0.0.1:30080", "127.1.0.1:30080"].map(|address| address.parse().unwrap());
        for (node, address) in of_nodes.into_iter().enumerate() {
            nodes.leads_at(node, address, &[endpoint.address]).await;
            assert_eq!(nodes.met(address).await, [1000].into(), "node {node}");
        }
        let _: Service = nodes.site.patch("web", json!({"spec": {"type": "ClusterIP"}})).await;
        for (node, address) in of_nodes.into_iter().enumerate() {
            nodes.leads_at(node, address, &[]).await;
            assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn each_family_leads_to_its_own_endpoints() {
    test(|nodes| async move {
        let of = [Endpoint::listen("10.244.0.1:1000").await, Endpoint::listen("[fd00:10:244::1]:2000").await];
        let both = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
        let service: Service = nodes.site.patch("web", both).await;
        nodes.put(slice("web-4", &[("web", 1000)], &[("10.244.0.1", READY)])).await;
        let mut six = slice("web-6", &[("web", 2000)], &[("fd00:10:244::1", READY)]);
        six["addressType"] = json!("IPv6");
        nodes.put(six).await;
        let mut all = std::collections::BTreeSet::new();
        for node in 0..nodes.proxy.nodes() {
            let addresses = ServiceProxy::addresses(node, &service, 80);
            assert_eq!(addresses[0], nodes.web(node), "the first is the one it had");
            for (address, endpoint) in addresses.iter().zip(&of) {
                nodes.leads_at(node, *address, &[endpoint.address]).await;
                assert_eq!(nodes.met(*address).await, [endpoint.address.port()].into(), "node {node}");
            }
            all.extend(addresses);
        }
        assert_eq!(all.len(), 4, "each node has its own of both: {all:?}");
        // What is not there any more is refused, and the other family replaces nothing.
        nodes.site.delete::<EndpointSlice>("web-6").await;
        let [four, six] = ServiceProxy::addresses(0, &service, 80)[..] else { panic!("two addresses") };
        nodes.leads_at(0, six, &[]).await;
        assert_eq!(TcpStream::connect(six).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(nodes.met(four).await, [1000].into());
    });
}

#[test]
fn endpoints_that_end_take_connections_only_where_none_is_ready() {
    test(|nodes| async move {
        let ends = [false, true, true];
        let done = [false, false, true];
        let (old, new) = (Endpoint::listen("10.244.0.1:80").await, Endpoint::listen("10.244.0.2:81").await);
        nodes.put(slice("old", &[("web", 80)], &[("10.244.0.1", ends), ("10.244.0.3", done)])).await;
        nodes.until_sends(0, &[old.address]).await;
        nodes.put(slice("new", &[("web", 81)], &[("10.244.0.2", READY)])).await;
        nodes.until_sends(0, &[new.address]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [81].into());
        nodes.site.delete::<EndpointSlice>("new").await;
        nodes.until_sends(0, &[old.address]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [80].into());
        nodes.put(slice("old", &[("web", 80)], &[("10.244.0.1", done)])).await;
        nodes.until_sends(0, &[]).await;
    });
}

#[test]
fn with_affinity_a_client_stays_at_an_endpoint_for_as_long_as_it_is_one() {
    test(|nodes| async move {
        let (one, two) = (Endpoint::listen("10.244.0.1:80").await, Endpoint::listen("10.244.0.2:81").await);
        let slices = [("one", 80, "10.244.0.1"), ("two", 81, "10.244.0.2")]
            .map(|(name, port, address)| slice(name, &[("web", port)], &[(address, READY)]));
        for slice in &slices {
            nodes.put(slice.clone()).await;
        }
        nodes.until_sends(0, &[one.address, two.address]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [80, 81].into());
        nodes.site.patch::<Service>("web", json!({"spec": {"sessionAffinity": "ClientIP"}})).await;
        let known = async { while nodes.met(nodes.web(0)).await.len() > 1 {} };
        timeout(PATIENCE, known).await.expect("the node does not hear of it");
        let kept = nodes.met(nodes.web(0)).await;
        let (gone, left) = if kept == [80].into() { (0, two.address) } else { (1, one.address) };
        nodes.site.delete::<EndpointSlice>(["one", "two"][gone]).await;
        nodes.until_sends(0, &[left]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [left.port()].into());
        nodes.put(slices[gone].clone()).await;
        nodes.until_sends(0, &[one.address, two.address]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [left.port()].into());
    });
}

#[test]
fn established_connections_stay_where_they_are() {
    test(|nodes| async move {
        let (old, new) =
            (Endpoint::listen("10.244.0.1:1000").await, Endpoint::listen("10.244.0.1:2000").await);
        nodes.put(slice("web", &[("web", 1000)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(0, &[old.address]).await;
        let mut kept = TcpStream::connect(nodes.web(0)).await.unwrap();
        assert_eq!(greeting(&mut kept).await, 1000);
        nodes.put(slice("web", &[("web", 2000)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(0, &[new.address]).await;
        assert_eq!(nodes.met(nodes.web(0)).await, [2000].into());
        nodes.site.delete::<Service>("web").await;
        nodes.until_sends(0, &[]).await;
        // It carries what it carried before, and its own half's end.
        kept.write_all(b"still").await.unwrap();
        let mut back = [0; 5];
        kept.read_exact(&mut back).await.expect("the connection was cut");
        assert_eq!(&back, b"still");
        kept.write_all(b", and more").await.unwrap();
        kept.shutdown().await.unwrap();
        assert_eq!(rest_of(&mut kept).await.unwrap(), ", and more and that is all");
    });
}

#[test]
fn without_an_endpoint_a_connection_is_refused() {
    test(|nodes| async move {
        let refused = async || TcpStream::connect(nodes.web(0)).await.unwrap_err().kind();
        let endpoint = Endpoint::listen("10.244.0.1:80").await;
        for _ in 0..3 {
            nodes.put(slice("web", &[("web", 80)], &[("10.244.0.1", READY)])).await;
            nodes.until_sends(0, &[endpoint.address]).await;
            assert_eq!(nodes.met(nodes.web(0)).await, [80].into());
            nodes.put(slice("web", &[("web", 80)], &[])).await;
            nodes.until_sends(0, &[]).await;
            assert_eq!(refused().await, ErrorKind::ConnectionRefused);
        }
        assert_eq!(
            nodes.proxy.counts("default", "web"),
            Counts { forwarded: 3 * MANY as u64, ..Counts::default() }
        );
    });
}

#[test]
fn what_the_chosen_endpoint_refuses_is_reset_and_not_tried_elsewhere() {
    test(|nodes| async move {
        let alive = Endpoint::listen("10.244.0.1:80").await;
        let dead = Endpoint::listen("10.244.0.2:80").await;
        nodes.put(slice("web", &[("web", 80)], &[("10.244.0.1", READY), ("10.244.0.2", READY)])).await;
        nodes.until_sends(0, &[alive.address, dead.address]).await;
        let gone = dead.address;
        drop(dead);
        while TcpStream::connect(gone).await.is_ok() {}
        let mut reset = 0;
        for _ in 0..MANY {
            // The reset may be there before the client has looked.
            let met = async { TcpStream::connect(nodes.web(0)).await?.read_u16().await };
            if let Err(error) = met.await {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                reset += 1;
            }
        }
        let counts = nodes.proxy.counts("default", "web");
        assert!(reset > 0, "the dead one was never chosen");
        assert_eq!((counts.refused, counts.forwarded), (reset, MANY as u64 - reset));
    });
}

/// A client distinguishes a connection that was closed before its request came from one that was cut: so does its kernel here.
#[test]
fn a_close_and_a_reset_pass_in_their_order() {
    test(|nodes| async move {
        let listener = TcpListener::bind("10.244.0.1:80").await.unwrap();
        nodes.put(slice("web", &[("web", 80)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(0, &[listener.local_addr().unwrap()]).await;
        let open = async || {
            let mut client = TcpStream::connect(nodes.web(0)).await.unwrap();
            let (mut endpoint, _) = listener.accept().await.unwrap();
            endpoint.write_u16(1).await.unwrap();
            assert_eq!(greeting(&mut client).await, 1);
            (client, endpoint)
        };
        // Closed, and what was sent after that reset.
        let (mut client, mut endpoint) = open().await;
        endpoint.write_all(b"bye").await.unwrap();
        drop(endpoint);
        client.readable().await.unwrap();
        client.write_all(b"too late").await.unwrap();
        client.ready(tokio::io::Interest::ERROR).await.unwrap();
        assert_eq!(client.take_error().unwrap().map(|error| error.kind()), Some(ErrorKind::BrokenPipe));
        assert_eq!(rest_of(&mut client).await.unwrap(), "bye");
        // Cut.
        let (mut client, endpoint) = open().await;
        endpoint.set_zero_linger().unwrap();
        drop(endpoint);
        assert_eq!(rest_of(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        // And the other way.
        let (client, mut endpoint) = open().await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(rest_of(&mut endpoint).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_has_no_cluster_ip_is_led_nowhere_and_ports_come_and_go() {
    test(|nodes| async move {
        let endpoint = Endpoint::listen("10.244.0.1:80").await;
        nodes.put(slice("web", &[("web", 80), ("more", 80)], &[("10.244.0.1", READY)])).await;
        nodes.until_sends(0, &[endpoint.address]).await;
        let more = ServiceProxy::address(0, &nodes.service, 8000);
        let ports = json!({"spec": {"ports": [{"name": "more", "port": 8000}, {"name": "dns", "protocol": "UDP", "port": 53}]}});
        nodes.site.patch::<Service>("web", ports).await;
        nodes.proxy.until(0, more, |known| !known.is_empty()).await;
        assert_eq!(nodes.met(more).await, [80].into());
        assert!(TcpStream::connect(nodes.web(0)).await.is_err(), "the port is gone");
        let headless =
            json!({"metadata": {"name": "none"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
        let headless: Service = nodes.site.create(headless).await;
        assert!(std::panic::catch_unwind(|| ServiceProxy::address(0, &headless, 80)).is_err());
    });
}
