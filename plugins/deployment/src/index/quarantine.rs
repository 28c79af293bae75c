//! Freed ports, and since when this process has seen them so.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::objects::{PortEntry, PortRegistry};

/// How long a freed port is assigned to no other Service, by this process's clock, from when it saw it freed.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(600);

/// Since when freed ports are seen so.
#[derive(Debug, Default)]
pub(crate) struct PortQuarantine {
    since: BTreeMap<u16, (PortEntry, Instant)>,
}

// === impl PortQuarantine ===

impl PortQuarantine {
    /// The registry is seen as it is now.
    pub(crate) fn follow(&mut self, registry: &PortRegistry, now: Instant) {
        let before = std::mem::take(&mut self.since);
        for (port, entry) in registry.entries().filter(|(_, entry)| entry.freed_at.is_some()) {
            let since = before.get(&port).filter(|(same, _)| same == entry).map_or(now, |(_, since)| *since);
            self.since.insert(port, (entry.clone(), since));
        }
    }

    /// Whether the port was freed so long ago that another Service can have it.
    pub(crate) fn is_over(&self, port: u16, entry: &PortEntry, now: Instant) -> bool {
        let seen = self.since.get(&port).filter(|(same, _)| same == entry);
        seen.is_some_and(|(_, since)| now.duration_since(*since) >= QUARANTINE)
    }
}
