//! How much may be held: by count and by bytes, per resource, per namespace and in all.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::shares::{Full, NamespaceShare, NamespaceShares, fits};
use crate::state::ResourceHandle;

/// The limits of one resource's held requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldLimits {
    /// Requests.
    pub(crate) requests: usize,
    /// Bytes, those in the sockets included.
    pub(crate) bytes: u64,
}

/// The held requests of all resources together.
#[derive(Debug)]
pub(crate) struct HeldTotals {
    limits: HoldLimits,
    requests: AtomicUsize,
    bytes: AtomicU64,
    shares: Arc<NamespaceShares>,
}

/// A held request's part of the limits; freed when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    resource: Arc<ResourceHandle>,
    totals: Arc<HeldTotals>,
    bytes: u64,
}

/// Why one more request is not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueFull {
    #[error("{0} requests are held for it already: the limit is reached")]
    Requests(usize),
    #[error("{held} bytes are held for it already: the limit is {limit}")]
    Bytes { held: u64, limit: u64 },
    #[error("{0} requests are held in all: the limit is reached")]
    TotalRequests(usize),
    #[error("{held} bytes are held in all, of {limit} that may be")]
    TotalBytes { held: u64, limit: u64 },
    #[error(
        "{held} requests are held for namespace {}: it has its share of the {limit} that can be held",
        .share.namespace
    )]
    NamespaceRequests { held: usize, limit: usize, share: Arc<NamespaceShare> },
    #[error(
        "{held} bytes are held for namespace {}: it has its share of the {limit} that can be held",
        .share.namespace
    )]
    NamespaceBytes { held: u64, limit: u64, share: Arc<NamespaceShare> },
}

// === impl HeldTotals ===

impl HeldTotals {
    /// Nothing held yet.
    pub(crate) fn new(limits: HoldLimits) -> Self {
        Self { limits, requests: AtomicUsize::new(0), bytes: AtomicU64::new(0), shares: Arc::default() }
    }

    /// The share of a namespace.
    pub(crate) fn share(&self, namespace: &str) -> Arc<NamespaceShare> {
        self.shares.for_namespace(namespace)
    }

    /// Requests held, of all resources.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Bytes reserved, of all resources.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

// === impl Reservation ===

impl Reservation {
    /// Reserves a place and bytes for a request.
    pub(crate) fn take(
        resource: &Arc<ResourceHandle>,
        bytes: u64,
        limits: &HoldLimits,
        totals: &Arc<HeldTotals>,
    ) -> Result<Self, QueueFull> {
        let queue = &resource.queue;
        let before = queue.len.fetch_add(1, Ordering::SeqCst);
        let all_before = totals.requests.fetch_add(1, Ordering::SeqCst);
        let own_before = resource.share.requests.fetch_add(1, Ordering::SeqCst);
        let own_bytes_before = resource.share.bytes.fetch_add(bytes, Ordering::Relaxed);
        let bytes_before = queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        let all_bytes_before = totals.bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = Self { resource: resource.clone(), totals: totals.clone(), bytes };
        // If a limit is exceeded, dropping `taken` gives everything back.
        if before >= limits.requests {
            Err(QueueFull::Requests(limits.requests))
        } else if bytes_before + bytes > limits.bytes {
            Err(QueueFull::Bytes { held: bytes_before, limit: limits.bytes })
        } else {
            let several = resource.share.has_others();
            let share = || resource.share.clone();
            let HoldLimits { requests: max_requests, bytes: max_bytes } = totals.limits;
            let fit = fits(max_requests as u64, all_before as u64, own_before as u64, 1, several);
            let fit_bytes = fits(max_bytes, all_bytes_before, own_bytes_before, bytes, several);
            match (fit, fit_bytes) {
                (Ok(()), Ok(())) => Ok(taken),
                (Err(Full::All), _) => Err(QueueFull::TotalRequests(max_requests)),
                (Err(Full::Share), _) => Err(QueueFull::NamespaceRequests {
                    held: own_before,
                    limit: max_requests,
                    share: share(),
                }),
                (_, Err(Full::All)) => {
                    Err(QueueFull::TotalBytes { held: all_bytes_before, limit: max_bytes })
                }
                (_, Err(Full::Share)) => Err(QueueFull::NamespaceBytes {
                    held: own_bytes_before,
                    limit: max_bytes,
                    share: share(),
                }),
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let queue = &self.resource.queue;
        queue.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.resource.share.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.resource.share.requests.fetch_sub(1, Ordering::SeqCst);
        self.totals.requests.fetch_sub(1, Ordering::SeqCst);
        queue.len.fetch_sub(1, Ordering::SeqCst);
    }
}
