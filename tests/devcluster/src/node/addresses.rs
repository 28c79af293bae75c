//! The addresses that pods have.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Those in use, as numbers from the network's beginning.
#[derive(Debug)]
pub struct Addresses {
    /// The last one that was given.
    last: u16,
    used: HashSet<u16>,
}

// === impl Addresses ===

impl Addresses {
    /// The next free one: a released one is used again as late as can be.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let free = (0..u16::MAX).find_map(|ahead| {
            let number = self.last.wrapping_add(1).wrapping_add(ahead);
            Some(number).filter(|number| (2..u16::MAX).contains(number) && !self.used.contains(number))
        })?;
        self.last = free;
        self.used.insert(free);
        let [high, low] = free.to_be_bytes();
        Some(Ipv4Addr::new(10, 244, high, low))
    }

    pub fn give_back(&mut self, address: Ipv4Addr) {
        self.used.remove(&number(address));
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self { last: 1, used: HashSet::new() }
    }
}

/// The address of IPv6 that a pod has beside that of IPv4.
pub fn second(first: Ipv4Addr) -> Ipv6Addr {
    [0xfd00, 0x10, 0x244, 0, 0, 0, 0, number(first)].into()
}

fn number(address: Ipv4Addr) -> u16 {
    let [_, _, high, low] = address.octets();
    u16::from_be_bytes([high, low])
}
