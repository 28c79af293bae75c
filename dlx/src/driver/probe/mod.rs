//! Probes an endpoint from when it is known until it answers.

mod error;
mod grpc;
mod http;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use error::{InvalidProbe, ProbeError};
use scaler_types::Probe;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::Driver;
use crate::state::{EndpointTarget, ResourceHandle};

/// The first pause between two probes while requests wait: a cold start takes longer by up to this. A refused connection
/// costs about 50 us.
const MIN_PROBE_DELAY: Duration = Duration::from_millis(2);
/// A longer start is probed less often: the pause is this fraction of the time so far, 10 ms after 5 s.
const PROBE_DELAY_SHARE: u32 = 500;
/// The longest pause while requests wait.
const MAX_AWAITED_DELAY: Duration = Duration::from_millis(50);
/// Probes per second, of all resources that requests wait for: 10,000 that start at once are each probed every 2 s.
const MAX_PROBES_PER_SECOND: u32 = 5_000;
/// The longest pause while no requests wait.
const MAX_IDLE_DELAY: Duration = Duration::from_secs(10);
/// The first timeout of a probe; it doubles so that a slow endpoint is not missed for ever.
const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How an endpoint is probed.
enum EndpointProbe {
    /// It accepts a connection.
    Connect,
    /// It answers this request with 2xx or 3xx.
    Http(http::HttpProbe),
    /// Its health service says SERVING.
    Grpc(grpc::GrpcProbe),
}

/// Probes an endpoint until it answers, or is not wanted any more.
pub(crate) fn start(driver: Arc<Driver>, resource: Arc<ResourceHandle>, target: Arc<EndpointTarget>) {
    let handle = driver.handle.clone();
    handle.spawn(async move {
        let address = target.endpoint.probe_address.as_deref().unwrap_or(&target.endpoint.address);
        let probe = match EndpointProbe::new(&target.endpoint.probe, address) {
            Ok(probe) => probe,
            Err(error) => {
                tracing::warn!(resource = %resource.key.id, endpoint = address, reason = %error, "failed to probe an endpoint: its probe is invalid");
                // Until its plugin lists it with another probe.
                return resource.note_probe(target.number, format!("it cannot be probed: {error}"));
            }
        };
        let (mut pause, mut limit) = (MIN_PROBE_DELAY, MIN_PROBE_TIMEOUT);
        let started = Instant::now();
        let mut changed = resource.subscribe();
        while resource.read(|view| view.is_awaited(target.number)) {
            let error = {
                // The semaphore is never closed; an error would only skip the limit.
                let _permit = driver.probes.acquire().await.ok();
                match timeout(limit, probe.check(address)).await {
                    Ok(Ok(())) => {
                        resource.update(|view| view.mark_ready(target.number));
                        return;
                    }
                    Ok(Err(error)) => error,
                    Err(_) => {
                        limit = (limit * 2).min(MAX_PROBE_TIMEOUT);
                        ProbeError::Timeout
                    }
                }
            };
            resource.note_probe(target.number, error.to_string());
            if resource.queue.is_empty() {
                pause = pause.mul_f32(1.5).min(MAX_IDLE_DELAY);
                // The first held request cuts the pause short.
                let until = Instant::now() + pause;
                changed.borrow_and_update();
                while resource.queue.is_empty()
                    && matches!(timeout_at(until, changed.changed()).await, Ok(Ok(())))
                {}
                if !resource.queue.is_empty() {
                    pause = MIN_PROBE_DELAY;
                }
            } else {
                let awaited = AwaitedEndpoint::new(&driver.awaited);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing but a connection tells whether a port accepts"
                )]
                sleep_until(Instant::now() + awaited.pause(started.elapsed())).await;
            }
        }
    });
}

/// One of the endpoints that requests wait for.
struct AwaitedEndpoint<'a> {
    others: &'a AtomicU32,
    position: u32,
}

// === impl AwaitedEndpoint ===

impl<'a> AwaitedEndpoint<'a> {
    fn new(others: &'a AtomicU32) -> Self {
        Self { others, position: others.fetch_add(1, Ordering::Relaxed) }
    }

    fn pause(&self, taken: Duration) -> Duration {
        let own = (taken / PROBE_DELAY_SHARE).clamp(MIN_PROBE_DELAY, MAX_AWAITED_DELAY);
        own.max(Duration::from_secs(1) * self.position / MAX_PROBES_PER_SECOND)
    }
}

impl Drop for AwaitedEndpoint<'_> {
    fn drop(&mut self) {
        self.others.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl EndpointProbe ===

impl EndpointProbe {
    fn new(probe: &Probe, address: &str) -> Result<Self, InvalidProbe> {
        Ok(match probe {
            Probe::Tcp | Probe::Listed => EndpointProbe::Connect,
            Probe::Http { path, headers } => {
                EndpointProbe::Http(http::HttpProbe::new(path, headers, address)?)
            }
            Probe::Grpc { service } => EndpointProbe::Grpc(grpc::GrpcProbe::new(service, address)?),
        })
    }

    async fn check(&self, address: &str) -> Result<(), ProbeError> {
        // `connect` also resolves names.
        let stream = TcpStream::connect(address).await?;
        match self {
            EndpointProbe::Connect => Ok(()),
            EndpointProbe::Http(probe) => probe.check(stream).await,
            EndpointProbe::Grpc(probe) => probe.check(stream).await,
        }
    }
}
