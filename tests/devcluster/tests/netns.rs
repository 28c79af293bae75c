//! Each test has all pod addresses to itself.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use devcluster::netns;
use tokio::net::{TcpListener, TcpStream};

const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 3, 4), 80);
const SECOND: (Ipv6Addr, u16) = (Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x304), 80);

#[test]
fn any_pod_address_can_be_bound_and_reached() {
    netns::run(async {
        for address in [SocketAddr::from(ADDRESS), SocketAddr::from(SECOND)] {
            let listener = TcpListener::bind(address).await.expect("listening on a pod's address");
            let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
            client.expect("connecting to a pod's address");
            assert_eq!(server.expect("accepting").0.local_addr().unwrap(), address);
        }
    });
}

/// Beside the other test: were the network shared, one of them could not listen.
#[test]
fn the_same_address_is_free_in_another_test() {
    netns::run(async {
        let _listener = TcpListener::bind(ADDRESS).await.expect("listening on a pod's address");
        assert!(netns::inside());
    });
}

#[test]
#[should_panic(expected = "in a network namespace of its own, ended with exit status: 101")]
fn a_failure_inside_is_the_tests_failure() {
    netns::run_blocking(|| assert!(!netns::inside(), "as it is meant to"));
}
