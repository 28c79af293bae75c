//! Whose headers are believed.

use std::{net::IpAddr, str::FromStr};

/// Peers whose `X-Forwarded-*` and target headers count.
#[derive(Clone, Debug, Default)]
pub struct Peers(Vec<Network>);

/// An address, or a network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

// === impl Peers ===

impl Peers {
    /// Whose headers are believed.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether nobody was named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this peer's are.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(peer))
    }
}

// === impl Network ===

impl Network {
    fn contains(self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                same(own.to_bits().into(), peer.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => same(own.to_bits(), peer.to_bits(), 128, self.prefix),
            _ => false,
        }
    }
}

fn same(a: u128, b: u128, bits: u32, prefix: u8) -> bool {
    (a ^ b).checked_shr(bits - u32::from(prefix)).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusts(networks: &[&str], peer: &str) -> bool {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Peers::new(networks).trusts(peer.parse().unwrap())
    }

    #[test]
    fn networks_and_addresses() {
        assert!(trusts(&["10.0.0.0/8"], "10.255.0.1"));
        assert!(!trusts(&["10.0.0.0/8"], "11.0.0.1"));
        assert!(trusts(&["127.0.0.1"], "127.0.0.1"));
        assert!(!trusts(&["127.0.0.1"], "127.0.0.2"));
        assert!(trusts(&["127.0.0.1"], "::ffff:127.0.0.1"));
        assert!(trusts(&["fd00::/8"], "fdff::1"));
        assert!(trusts(&["0.0.0.0/0"], "8.8.8.8"));
        assert!(!trusts(&["0.0.0.0/0"], "::1"));
        assert!(!trusts(&[], "127.0.0.1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["", "10.0.0.0/33", "a", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
