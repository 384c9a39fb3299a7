//! Whom a request comes from, as far as limits go: an address of IPv4, or a /64 of IPv6.
//!
//! What a client says of itself is believed only from a proxy that the configuration names (`X-Forwarded-For`, whose
//! last entries are those that the nearest proxies wrote).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One bucket of attempts. A whole /64 is one: whoever has one address of it has all.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Client(u64);

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // 2000::/3 is where addresses of IPv6 begin, so none of those is taken for one of IPv4.
            IpAddr::V4(address) => Self(u64::from(u32::from(address))),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                let prefix = [a, b, c, d].into_iter();
                let prefix = prefix.fold(0, |high, part| (high << 16) | u64::from(part));
                match prefix {
                    // Loopback, and whatever else has no prefix to speak of.
                    0 => Self(u64::MAX),
                    prefix => Self(prefix),
                }
            }
        }
    }
}

/// The client behind a connection: its peer, or whom the nearest proxy that is not trusted stands for.
pub(crate) fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Client {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
    if !is_trusted(&peer) {
        return Client::of(peer);
    }
    // Each proxy adds whom it heard from at the end, so what comes first is the client's own word.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut nearest = peer;
    for entry in entries.take(MAX_HOPS) {
        let entry = std::str::from_utf8(entry).unwrap_or_default().trim();
        let Ok(address) = entry.parse::<IpAddr>() else {
            break;
        };
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    Client::of(nearest)
}

/// An address or a network: `10.0.0.7`, `10.0.0.0/8`, `fd00::/64`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    /// Of IPv4 as IPv6 maps it.
    first: u128,
    mask: u128,
}

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        mapped(address) & self.mask == self.first
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| NetworkError)?,
            None => width,
        };
        let host = width.checked_sub(length).ok_or(NetworkError)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        let first = mapped(address);
        match first & mask == first {
            true => Ok(Self { first, mask }),
            // Somebody who writes 10.0.0.7/8 means one or the other.
            false => Err(NetworkError),
        }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = Ipv6Addr::from(self.first);
        let host = self.mask.trailing_zeros();
        match first.to_ipv4_mapped() {
            Some(first) if host <= 32 => write!(f, "{first}/{}", 32 - host),
            _ => write!(f, "{first}/{}", 128 - host),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that names no network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a network is an address, or its first address and a length: 10.0.0.7, 10.0.0.0/8, fd00::/64",
        )
    }
}

impl std::error::Error for NetworkError {}

fn mapped(address: IpAddr) -> u128 {
    let address: Ipv6Addr = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    u128::from(address)
}

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More proxies than stand in one row.
const MAX_HOPS: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Client {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<Network> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        behind(peer.parse().unwrap(), &headers, &trusted)
    }

    fn of(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    #[test]
    fn client_names_its_own_address() {
        for trusted in [&[][..], &["10.0.0.2"]] {
            assert_eq!(seen("10.0.0.1", &["192.0.2.1"], trusted), of("10.0.0.1"));
        }
    }

    #[test]
    fn client_behind_a_proxy_names_another_address_before_it() {
        let proxies = &["10.0.0.0/8"];
        let honest = of("192.0.2.1");
        for lines in [
            &["192.0.2.1"][..],
            &["203.0.113.9, 192.0.2.1"],
            &["203.0.113.9", "192.0.2.1"],
            &["203.0.113.9, 192.0.2.1, 10.0.0.9"],
            &["203.0.113.9,192.0.2.1", "10.0.0.9"],
            &["nonsense, 192.0.2.1"],
        ] {
            assert_eq!(seen("10.0.0.1", lines, proxies), honest, "{lines:?}");
        }
    }

    #[test]
    fn header_of_a_proxy_that_names_nobody_is_nobody() {
        for lines in [
            &[][..],
            &[""],
            &["unknown"],
            &["192.0.2.1, unknown"],
            &["192.0.2.1:80"],
        ] {
            assert_eq!(
                seen("10.0.0.1", lines, &["10.0.0.1"]),
                of("10.0.0.1"),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn addresses_of_one_64_are_many() {
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("::1"), of("0.0.0.0"));
    }

    #[test]
    fn network_holds_what_lies_beside_it() {
        let network: Network = "192.0.2.128/25".parse().unwrap();
        assert!(network.contains("192.0.2.200".parse().unwrap()));
        assert!(network.contains("::ffff:192.0.2.200".parse().unwrap()));
        assert!(!network.contains("192.0.2.127".parse().unwrap()));
        for text in [
            "192.0.2.128/25",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32",
            "10.0.0.1/32",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("192.0.2.1".parse().unwrap()));
        assert!(!all.contains("2001:db8::1".parse().unwrap()));
        for bad in [
            "",
            "a",
            "10.0.0.7/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
