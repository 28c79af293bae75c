//! A beanstalkd beside a [`Shop`](super::Shop), by a name as its Service would have it. It needs devcluster, and its network.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use devcluster::netns;

use crate::brokers::{Broker, Queue, take_jobs};

/// Its name for workers and autoscaler.
const NAME: &str = "beanstalkd";
const PORT: u16 = 11_300;
/// The line of a namespace file that allows it.
pub const ALLOWED: &str = "metricSources: {queues: {allowedHosts: [beanstalkd]}}\n";

/// Starts it for the shop whose folder this is.
///
/// # Panics
///
/// It does not come up.
pub async fn start(folder: &Path) -> Broker {
    netns::set_host_names(&folder.join("hosts"), &[(IpAddr::V4(Ipv4Addr::LOCALHOST), NAME)]);
    Broker::beanstalkd_in(folder, PORT).await
}

/// What the annotation `queue` says of one of its tubes.
pub fn queue(tube: &str) -> String {
    format!("beanstalkd://{NAME}:{PORT}/{tube}")
}

/// Puts so many jobs into a tube.
///
/// # Panics
///
/// It refuses.
pub async fn put(tube: &str, count: usize) {
    Queue::Tube(PORT, tube.to_owned()).put(count).await;
}

/// Takes so many jobs out of a tube, or all that wait in it: as workers do that are done with them.
///
/// # Panics
///
/// It refuses.
pub async fn take(tube: &str, count: usize) {
    take_jobs(PORT, tube, count).await;
}
