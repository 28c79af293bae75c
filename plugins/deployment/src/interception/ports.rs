//! Assigning DLX ports to Services' ports, and freeing them: what the registry is to be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::Instant,
};

use scaler_types::ServicePorts;
use serde_json::{Value, json};

use crate::{
    index::PortQuarantine,
    objects::{INTERCEPTED, PortEntry, PortHolder, PortRegistry, holding},
};

/// The registry as it is to be.
#[derive(Debug)]
pub(crate) struct PortDraft<'a> {
    range: ServicePorts,
    quarantine: &'a PortQuarantine,
    now: Instant,
    before: &'a PortRegistry,
    ports: BTreeMap<u16, Option<PortEntry>>,
    /// Where each Service's ports are, and were.
    of: HashMap<String, Vec<u16>>,
}

/// Whether every holder without a port could be assigned one, now.
pub(crate) fn has_room_for(
    registry: &PortRegistry,
    holders: &[PortHolder],
    range: ServicePorts,
    quarantine: &PortQuarantine,
    now: Instant,
) -> bool {
    let mine = |holder: &&PortHolder| {
        !registry
            .entries_of(&holder.uid)
            .any(|(port, entry)| range.contains(port) && entry.holder == **holder)
    };
    let wanted = holders.iter().filter(mine).count();
    let free = |port: &u16| match registry.ports.get(port) {
        None => true,
        Some(Some(entry)) => quarantine.is_over(*port, entry, now) && !holders.contains(&entry.holder),
        Some(None) => false,
    };
    wanted == 0 || range.all().filter(free).take(wanted).count() == wanted
}

// === impl PortDraft ===

impl<'a> PortDraft<'a> {
    /// Nothing is changed yet.
    pub(crate) fn new(
        before: &'a PortRegistry,
        range: ServicePorts,
        quarantine: &'a PortQuarantine,
        now: Instant,
    ) -> Self {
        Self { range, quarantine, now, before, ports: before.ports.clone(), of: before.of.clone() }
    }

    /// Enters a port that is in use and not in the registry: it was deleted. A port that another Service has by now stays
    /// with that one.
    pub(crate) fn restore(&mut self, port: u16, holder: &PortHolder) {
        match self.ports.get(&port) {
            None => {}
            Some(Some(entry)) if entry.freed_at.is_some() => {}
            Some(_) => return,
        }
        // One port each: the one it was assigned first.
        let has_one = self.its(holder).any(|(_, held)| held);
        if self.range.contains(port) && !has_one {
            self.give(port, holder);
        }
    }

    /// A port for each of the holders, or none for any of them: there are not enough.
    pub(crate) fn claim(&mut self, holders: &[PortHolder], freed_at: &str) -> Option<Vec<u16>> {
        let (mut assigned, mut chosen) = (Vec::new(), BTreeSet::new());
        for holder in holders {
            let port = self.choose(holder, &chosen)?;
            chosen.insert(port);
            assigned.push(port);
        }
        for (holder, port) in holders.iter().zip(&assigned) {
            self.give(*port, holder);
            // What it holds outside of the range, which was another once.
            let others: Vec<_> = self.its(holder).filter(|(other, held)| *held && other != port).collect();
            for (other, _) in others {
                self.mark(other, freed_at);
            }
        }
        Some(assigned)
    }

    /// Whether each of the holders has a port.
    pub(crate) fn has(&self, holders: &[PortHolder]) -> bool {
        holders.iter().all(|holder| self.its(holder).any(|(port, held)| held && self.range.contains(port)))
    }

    /// Frees what these hold.
    pub(crate) fn free(&mut self, freed_at: &str, is_freed: impl Fn(&PortHolder) -> bool) {
        let held = |(port, entry): (&u16, &Option<PortEntry>)| {
            let entry = entry.as_ref().filter(|entry| entry.freed_at.is_none() && is_freed(&entry.holder));
            entry.map(|_| *port)
        };
        let ports: Vec<_> = self.ports.iter().filter_map(held).collect();
        for port in ports {
            self.mark(port, freed_at);
        }
    }

    /// Removes entries that were freed long ago.
    pub(crate) fn prune(&mut self) {
        let (quarantine, now) = (self.quarantine, self.now);
        self.ports
            .retain(|port, entry| !entry.as_ref().is_some_and(|entry| quarantine.is_over(*port, entry, now)));
    }

    /// Whether it differs.
    pub(crate) fn is_new(&self) -> bool {
        self.ports != self.before.ports || !self.before.is_counted()
    }

    /// The changes, as a JSON patch that tests what they were made on.
    pub(crate) fn patch(&self) -> Value {
        let mut operations = vec![
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": self.before.resource_version}),
        ];
        if !self.before.has_data {
            operations.push(json!({"op": "add", "path": "/data", "value": {}}));
        }
        for (port, entry) in &self.ports {
            if let Some(entry) = entry.as_ref().filter(|entry| self.before.get(*port) != Some(entry)) {
                operations.push(json!({"op": "add", "path": format!("/data/{port}"), "value": entry.text()}));
            }
        }
        for port in self.before.ports.keys().filter(|port| !self.ports.contains_key(port)) {
            operations.push(json!({"op": "remove", "path": format!("/data/{port}")}));
        }
        let holding = holding(&self.ports).to_string();
        operations.push(json!({"op": "add", "path": format!("/data/{INTERCEPTED}"), "value": holding}));
        Value::Array(operations)
    }

    /// All of it, for a ConfigMap that is not there yet.
    pub(crate) fn data(&self) -> BTreeMap<String, String> {
        let all =
            self.ports.iter().filter_map(|(port, entry)| Some((port.to_string(), entry.as_ref()?.text())));
        all.chain([(INTERCEPTED.to_owned(), holding(&self.ports).to_string())]).collect()
    }

    /// The port it has, or had, else a new one.
    ///
    /// Where to look first follows from the holder: should the registry ever be lost, every Service gets the port that it
    /// had.
    fn choose(&self, holder: &PortHolder, but: &BTreeSet<u16>) -> Option<u16> {
        let fits = |(port, _): &(u16, bool)| self.range.contains(*port) && !but.contains(port);
        let held = self.its(holder).filter(fits).find(|(_, held)| *held);
        if let Some((port, _)) = held.or_else(|| self.its(holder).find(fits)) {
            return Some(port);
        }
        let count = u64::from(self.range.last - self.range.first) + 1;
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((&holder.uid, &holder.port));
        let first = self.range.first + u16::try_from(hash % count).unwrap_or(0);
        let in_turn =
            || (first..=self.range.last).chain(self.range.first..first).filter(|port| !but.contains(port));
        let over = |port: &u16| match self.ports.get(port) {
            Some(Some(entry)) => self.quarantine.is_over(*port, entry, self.now),
            _ => false,
        };
        in_turn().find(|port| !self.ports.contains_key(port)).or_else(|| in_turn().find(over))
    }

    /// The ports that a holder has or had, and whether it has them.
    fn its<'d>(&'d self, holder: &'d PortHolder) -> impl Iterator<Item = (u16, bool)> + 'd {
        let ports = self.of.get(&holder.uid).into_iter().flatten();
        ports.filter_map(|port| {
            let entry = self.ports.get(port)?.as_ref().filter(|entry| entry.holder == *holder)?;
            Some((*port, entry.freed_at.is_none()))
        })
    }

    fn give(&mut self, port: u16, holder: &PortHolder) {
        self.ports.insert(port, Some(PortEntry::held_by(holder)));
        let ports = self.of.entry(holder.uid.clone()).or_default();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }

    fn mark(&mut self, port: u16, freed_at: &str) {
        if let Some(Some(entry)) = self.ports.get_mut(&port) {
            entry.freed_at = Some(freed_at.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
