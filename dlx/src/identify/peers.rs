//! Peers whose headers are trusted.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Peers whose `X-Forwarded-*` and target headers count.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(Vec<Network>);

/// An address, or a network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is neither an address nor a network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/8 or fd00::/8")]
pub(crate) struct InvalidNetwork(String);

// === impl TrustedProxies ===

impl TrustedProxies {
    /// Peers whose headers are trusted.
    pub(crate) fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this peer is one.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(peer))
    }
}

/// An address as `X-Forwarded-For` has it.
pub(crate) fn address(peer: SocketAddr) -> HeaderValue {
    // Only digits, letters, dots and colons: always a valid value.
    HeaderValue::try_from(peer.ip().to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The client's address: the nearest hop that is not trusted, as far as trusted hops say. `peer`: the other end of the
/// connection, as [`address`] returns it.
pub(crate) fn client(peers: &TrustedProxies, peer: &HeaderValue, headers: &HeaderMap) -> String {
    let peer = peer.to_str().unwrap_or_default();
    let trusted = |address: &str| address.parse().is_ok_and(|address| peers.trusts(address));
    if !trusted(peer) {
        return peer.to_owned();
    }
    let values =
        |name: HeaderName| headers.get_all(name).iter().rev().filter_map(|value| value.to_str().ok());
    let chain = values(HeaderName::from_static("x-forwarded-for")).flat_map(|value| value.rsplit(','));
    let forwarded = values(header::FORWARDED).flat_map(|value| value.rsplit(',')).filter_map(forwarded_for);
    let chain: Vec<_> = chain.chain(forwarded).chain(values(HeaderName::from_static("x-real-ip"))).collect();
    let mut client = peer.to_owned();
    for hop in chain.into_iter().map_while(hop_address) {
        client = hop.to_canonical().to_string();
        if !peers.trusts(hop) {
            break;
        }
    }
    client
}

/// Whether a field is about the client. `_` equals `-`: CGI, WSGI and PHP treat them alike.
pub(crate) fn is_about_client(name: &str) -> bool {
    let is = |byte: u8, wanted: u8| byte.to_ascii_lowercase() == wanted || byte == b'_' && wanted == b'-';
    let begins = |with: &str| {
        name.len() >= with.len() && name.bytes().zip(with.bytes()).all(|(byte, wanted)| is(byte, wanted))
    };
    begins("x-forwarded-")
        || name.eq_ignore_ascii_case("forwarded")
        || name.len() == "x-real-ip".len() && begins("x-real-ip")
}

/// `10.0.0.9` of `for=10.0.0.9;proto=https`.
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    named.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// An address, with or without a port and brackets.
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
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
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let wrong = || InvalidNetwork(text.to_owned());
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
        TrustedProxies::new(networks).trusts(peer.parse().unwrap())
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
    fn the_client_is_the_nearest_untrusted_hop() {
        let peers = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        for (peer, pairs, expected) in [
            ("203.0.113.9", &[("x-forwarded-for", "198.51.100.1")][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 198.51.100.1, 10.0.0.2")], "198.51.100.1"),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "[2001:db8::1]:80")],
                "2001:db8::1",
            ),
            ("10.0.0.1", &[("x-forwarded-for", "10.0.0.7")], "10.0.0.7"),
            ("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, nonsense")], "10.0.0.1"),
            ("10.0.0.1", &[("forwarded", "for=\"[2001:db8::2]\";proto=https, for=10.0.0.3")], "2001:db8::2"),
            ("10.0.0.1", &[("x-real-ip", "198.51.100.3")], "198.51.100.3"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(
                client(&peers, &HeaderValue::from_static(peer), &headers),
                expected,
                "{peer} {pairs:?}"
            );
        }
    }

    #[test]
    fn invalid_networks_are_refused() {
        for wrong in ["", "10.0.0.0/33", "a", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
