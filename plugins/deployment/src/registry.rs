//! The registry of the DLXs' ports: which of them is given to which port of which Service.
//!
//! One ConfigMap in the daemons' own namespace, a key per port, so that no two daemons and no two namespace files give the
//! same port to two Services. A port that is given back stays where it is, marked, and is not given to anybody else for
//! a while: a node that is behind, or a client that has kept an address, may still come by it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use scaler_types::ServicePorts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{ascii, facts::Meta};

/// The ConfigMap's name.
pub const NAME: &str = "scaler-service-ports";

/// The key with the number of Services that hold a port: those that are intercepted, and those that are about to be. An admission
/// policy reads it: while it is above 0, Scaler cannot be deleted. It is written with the ports it is counted from, in one write.
pub const INTERCEPTED: &str = "intercepted";

/// How long a port that was given back is given to nobody else, by this process's clock, since it saw that.
pub const QUARANTINE: Duration = Duration::from_secs(600);

/// A port of a Service, whose a port of the DLXs is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its uid: another Service of that name is another one.
    pub uid: String,
    /// Its port's name; empty where it has none.
    pub port: String,
}

/// What is kept of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is, or was.
    #[serde(flatten)]
    pub holder: Holder,
    /// It was given back: when, by the clock of whoever wrote it. Shown; compared with nothing but itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<String>,
}

/// The registry as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    /// The ConfigMap.
    pub meta: Meta,
    /// Its `resourceVersion` as it stands.
    pub resource_version: String,
    /// It has the map that the ports are in.
    has_data: bool,
    /// Ports in use; `None`: by something that cannot be read, and is left alone.
    ports: BTreeMap<u16, Option<Entry>>,
    /// Each Service's ports, by its uid.
    of: HashMap<String, Vec<u16>>,
    /// How many Services it says hold a port.
    intercepted: usize,
    /// How many do.
    holding: usize,
}

/// Since when ports that were given back are seen so.
#[derive(Debug, Default)]
pub struct Quarantine {
    since: BTreeMap<u16, (Entry, Instant)>,
}

/// The registry as it is to be.
#[derive(Debug)]
pub struct Draft<'a> {
    range: ServicePorts,
    quarantine: &'a Quarantine,
    now: Instant,
    before: &'a Registry,
    ports: BTreeMap<u16, Option<Entry>>,
    /// Where each Service's ports are, and were.
    of: HashMap<String, Vec<u16>>,
}

// === impl Entry ===

impl Entry {
    fn of(holder: &Holder) -> Self {
        Self { holder: holder.clone(), released: None }
    }

    fn text(&self) -> String {
        ascii::text(self)
    }
}

// === impl Registry ===

impl Registry {
    /// The entry of a port.
    pub fn get(&self, port: u16) -> Option<&Entry> {
        self.ports.get(&port)?.as_ref()
    }

    /// Whether something has the port.
    pub fn has(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// All entries that can be read.
    pub fn entries(&self) -> impl Iterator<Item = (u16, &Entry)> {
        self.ports.iter().filter_map(|(port, entry)| Some((*port, entry.as_ref()?)))
    }

    /// A Service's entries, those it has given back among them.
    pub fn of(&self, uid: &str) -> impl Iterator<Item = (u16, &Entry)> {
        let ports = self.of.get(uid).into_iter().flatten();
        ports.filter_map(|port| Some((*port, self.get(*port)?)))
    }

    /// The port that a Service's port has now.
    pub fn held(&self, holder: &Holder, range: ServicePorts) -> Option<u16> {
        let mut its = self.of(&holder.uid);
        its.find(|(port, entry)| {
            range.contains(*port) && entry.released.is_none() && entry.holder.port == holder.port
        })
        .map(|(port, _)| port)
    }

    /// The same, if it has no other one beside it.
    pub fn only(&self, holder: &Holder, range: ServicePorts) -> Option<u16> {
        let mut its =
            self.of(&holder.uid).filter(|(_, entry)| entry.holder == *holder && entry.released.is_none());
        let (port, _) = its.next()?;
        (range.contains(port) && its.next().is_none()).then_some(port)
    }

    /// Whether so many of the holders who have none could be given one, now.
    pub fn has_room_for(
        &self,
        holders: &[Holder],
        range: ServicePorts,
        quarantine: &Quarantine,
        now: Instant,
    ) -> bool {
        let mine = |holder: &&Holder| {
            !self.of(&holder.uid).any(|(port, entry)| range.contains(port) && entry.holder == **holder)
        };
        let wanted = holders.iter().filter(mine).count();
        let free = |port: &u16| match self.ports.get(port) {
            None => true,
            Some(Some(entry)) => quarantine.is_over(*port, entry, now) && !holders.contains(&entry.holder),
            Some(None) => false,
        };
        wanted == 0 || range.all().filter(free).take(wanted).count() == wanted
    }

    /// Whether it says how many Services hold a port.
    pub fn is_counted(&self) -> bool {
        self.intercepted == self.holding
    }

    /// To be changed.
    pub fn draft<'a>(&'a self, range: ServicePorts, quarantine: &'a Quarantine, now: Instant) -> Draft<'a> {
        Draft { range, quarantine, now, before: self, ports: self.ports.clone(), of: self.of.clone() }
    }
}

impl From<ConfigMap> for Registry {
    fn from(map: ConfigMap) -> Self {
        let meta = Meta::of(&map.metadata);
        let has_data = map.data.is_some();
        let said = map.data.as_ref().and_then(|data| data.get(INTERCEPTED));
        let intercepted = said.and_then(|text| text.parse().ok()).unwrap_or(0);
        let keys = map.data.into_iter().flatten();
        let ports: BTreeMap<u16, _> = keys
            .filter_map(|(key, text)| Some((key.parse().ok()?, serde_json::from_str::<Entry>(&text).ok())))
            .collect();
        let mut of: HashMap<String, Vec<u16>> = HashMap::new();
        for (port, entry) in &ports {
            if let Some(entry) = entry {
                of.entry(entry.holder.uid.clone()).or_default().push(*port);
            }
        }
        Self {
            meta,
            resource_version: map.metadata.resource_version.unwrap_or_default(),
            has_data,
            intercepted,
            holding: holding(&ports),
            ports,
            of,
        }
    }
}

// === impl Quarantine ===

impl Quarantine {
    /// The registry is seen as it is now.
    pub fn follow(&mut self, registry: &Registry, now: Instant) {
        let before = std::mem::take(&mut self.since);
        for (port, entry) in registry.entries().filter(|(_, entry)| entry.released.is_some()) {
            let since = before.get(&port).filter(|(same, _)| same == entry).map_or(now, |(_, since)| *since);
            self.since.insert(port, (entry.clone(), since));
        }
    }

    /// Whether the port was given back so long ago that somebody else can have it.
    pub fn is_over(&self, port: u16, entry: &Entry, now: Instant) -> bool {
        let seen = self.since.get(&port).filter(|(same, _)| same == entry);
        seen.is_some_and(|(_, since)| now.duration_since(*since) >= QUARANTINE)
    }
}

// === impl Draft ===

impl Draft<'_> {
    /// What is in use though the registry does not say so: somebody deleted it. A port that another has by now is
    /// that one's.
    pub fn restore(&mut self, port: u16, holder: &Holder) {
        match self.ports.get(&port) {
            None => {}
            Some(Some(entry)) if entry.released.is_some() => {}
            Some(_) => return,
        }
        // One port each: the one it was given first.
        let has_one = self.its(holder).any(|(_, held)| held);
        if self.range.contains(port) && !has_one {
            self.give(port, holder);
        }
    }

    /// A port for each of the holders, or none for any of them: there are not enough.
    pub fn claim(&mut self, holders: &[Holder], released: &str) -> Option<Vec<u16>> {
        let (mut given, mut chosen) = (Vec::new(), BTreeSet::new());
        for holder in holders {
            let port = self.choose(holder, &chosen)?;
            chosen.insert(port);
            given.push(port);
        }
        for (holder, port) in holders.iter().zip(&given) {
            self.give(*port, holder);
            // What it holds outside of the range, which was another once.
            let others: Vec<_> = self.its(holder).filter(|(other, held)| *held && other != port).collect();
            for (other, _) in others {
                self.mark(other, released);
            }
        }
        Some(given)
    }

    /// Whether each of the holders has a port.
    pub fn has(&self, holders: &[Holder]) -> bool {
        holders.iter().all(|holder| self.its(holder).any(|(port, held)| held && self.range.contains(port)))
    }

    /// Gives back what these hold.
    pub fn release(&mut self, released: &str, whose: impl Fn(&Holder) -> bool) {
        let held = |(port, entry): (&u16, &Option<Entry>)| {
            let entry = entry.as_ref().filter(|entry| entry.released.is_none() && whose(&entry.holder));
            entry.map(|_| *port)
        };
        let ports: Vec<_> = self.ports.iter().filter_map(held).collect();
        for port in ports {
            self.mark(port, released);
        }
    }

    /// Forgets what was given back long ago.
    pub fn prune(&mut self) {
        let (quarantine, now) = (self.quarantine, self.now);
        self.ports
            .retain(|port, entry| !entry.as_ref().is_some_and(|entry| quarantine.is_over(*port, entry, now)));
    }

    /// Whether it differs.
    pub fn is_new(&self) -> bool {
        self.ports != self.before.ports || !self.before.is_counted()
    }

    /// The changes, as a JSON patch that tests what they were made on.
    pub fn patch(&self) -> Value {
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
    pub fn data(&self) -> BTreeMap<String, String> {
        let all =
            self.ports.iter().filter_map(|(port, entry)| Some((port.to_string(), entry.as_ref()?.text())));
        all.chain([(INTERCEPTED.to_owned(), holding(&self.ports).to_string())]).collect()
    }

    /// The port it has, or had, else a new one.
    ///
    /// Where to look first follows from the holder: should the registry ever be lost, everybody asks for the port that he
    /// had, and nobody for another's.
    fn choose(&self, holder: &Holder, but: &BTreeSet<u16>) -> Option<u16> {
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
    fn its<'d>(&'d self, holder: &'d Holder) -> impl Iterator<Item = (u16, bool)> + 'd {
        let ports = self.of.get(&holder.uid).into_iter().flatten();
        ports.filter_map(|port| {
            let entry = self.ports.get(port)?.as_ref().filter(|entry| entry.holder == *holder)?;
            Some((*port, entry.released.is_none()))
        })
    }

    fn give(&mut self, port: u16, holder: &Holder) {
        self.ports.insert(port, Some(Entry::of(holder)));
        let ports = self.of.entry(holder.uid.clone()).or_default();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }

    fn mark(&mut self, port: u16, released: &str) {
        if let Some(Some(entry)) = self.ports.get_mut(&port) {
            entry.released = Some(released.to_owned());
        }
    }
}

/// How many Services hold a port.
fn holding(ports: &BTreeMap<u16, Option<Entry>>) -> usize {
    let held = ports.values().flatten().filter(|entry| entry.released.is_none());
    held.map(|entry| &entry.holder.uid).collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests;
