//! The ports that this system gives to outgoing connections.

use std::{fs, ops::RangeInclusive};

/// The range, and what is reserved in it.
pub(super) struct EphemeralPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

// === impl EphemeralPorts ===

impl EphemeralPorts {
    /// `range` and `reserved` as net.ipv4.ip_local_port_range and net.ipv4.ip_local_reserved_ports have them.
    fn parse(range: &str, reserved: &str) -> Self {
        let range = range.split_whitespace().filter_map(|port| port.parse().ok()).collect::<Vec<u16>>();
        let reserved = reserved.trim().split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
        let range = match range[..] {
            [first, last] => first..=last,
            // Nothing is known: no port is in it.
            _ => RangeInclusive::new(1, 0),
        };
        Self { range, reserved: reserved.collect() }
    }

    /// What is wrong with listening on a port, if it is one of them.
    pub(super) fn problem(&self, port: u16) -> Option<String> {
        let taken = self.range.contains(&port) && !self.reserved.iter().any(|range| range.contains(&port));
        let (first, last) = (self.range.start(), self.range.end());
        taken.then(|| {
            format!(
                "{port} is in this system's range for outgoing connections ({first}-{last}), so any program can take it: choose a port outside of it"
            )
        })
    }
}

impl Default for EphemeralPorts {
    /// Those of this system.
    fn default() -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        Self::parse(&read("ip_local_port_range"), &read("ip_local_reserved_ports"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_no_mistake() {
        let ports = EphemeralPorts::parse("32768\t60999\n", "40000,50000-50010\n");
        for (port, expected) in
            [(9000, false), (32_767, false), (32_768, true), (40_000, false), (50_005, false), (60_999, true)]
        {
            assert_eq!(ports.problem(port).is_some(), expected, "{port}");
        }
        assert!(ports.problem(45_000).unwrap().contains("(32768-60999)"));
        assert_eq!(EphemeralPorts::parse("", "").problem(45_000), None);
    }
}
