//! The address of the client behind proxies: pure, from the socket's address and the header of a request.
//!
//! `X-Forwarded-For` grows to the right: every proxy adds the address that it was called from. So it is read from the
//! right, and only as far as each address belongs to a proxy that is trusted; what a stranger has written into it is
//! never reached. `Forwarded` (RFC 7239) is not read: proxies that set one header pass the other through as they
//! got it from the stranger.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::HeaderName;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// All addresses with some first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

/// It is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads an address, or an address, a slash and a number of bits.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let bits = bits_of(address);
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => digits.parse().map_err(|_| NotANetwork)?,
            Some(_) => return Err(NotANetwork),
        };
        if prefix > bits {
            return Err(NotANetwork);
        }
        // Peers on a socket for both kinds are compared as what they are.
        let canonical = address.to_canonical();
        match prefix.checked_sub(bits - bits_of(canonical)) {
            Some(prefix) => Ok(Self {
                address: canonical,
                prefix,
            }),
            None => Ok(Self { address, prefix }),
        }
    }
}

fn bits_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The proxies whose word on their clients is taken.
#[derive(Debug, Default)]
pub(super) struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// The texts of a configuration that was checked.
    pub(super) fn new(texts: &[String]) -> Self {
        Self(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// The client that a request comes from.
    pub(super) fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        // Several lines are one list, in their order.
        let entries = headers
            .get_all(X_FORWARDED_FOR)
            .into_iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|entry| !entry.is_empty())
            .collect::<Vec<_>>();
        for entry in entries.into_iter().rev() {
            // What the last trusted proxy says cannot be understood: then it is the client, as far as is known.
            let Some(address) = read_entry(entry) else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Whether this canonical address is that of a trusted proxy.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// An address, in brackets or not, with a port or without.
fn read_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| in_brackets().map(IpAddr::V6))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).expect("a header"));
        }
        headers
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(&["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48", "::1"].map(str::to_owned))
    }

    fn check(peer: &str, lines: &[&str], expected: &str) {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        let address = proxies().client_address(peer.parse().unwrap(), &headers(&lines));
        assert_eq!(address, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
    }

    #[test]
    fn a_strangers_header_is_not_read() {
        check("203.0.113.5", &["198.51.100.1"], "203.0.113.5");
        check("203.0.113.5", &["10.0.0.1"], "203.0.113.5");
        check("192.0.2.8", &["198.51.100.1"], "192.0.2.8");
        check("2001:db8:2::1", &["198.51.100.1"], "2001:db8:2::1");
        let none = TrustedProxies::default();
        let claim = headers(&[b"198.51.100.1"]);
        for peer in ["127.0.0.1", "::1", "10.0.0.1"] {
            let peer = peer.parse().unwrap();
            assert_eq!(none.client_address(peer, &claim), peer);
        }
    }

    #[test]
    fn the_first_address_from_the_right_that_is_not_trusted_is_the_client() {
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.9.9.9, 192.0.2.7"], "198.51.100.1");
        check("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2");
        check("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.3"], "198.51.100.1");
        check("2001:db8:1::9", &["2001:db8:2::5"], "2001:db8:2::5");
        check("::1", &["2001:db8:2::5, 2001:db8:1:ffff::1"], "2001:db8:2::5");
    }

    #[test]
    fn addresses_may_have_ports_and_brackets_and_be_mapped() {
        check("10.0.0.1", &["198.51.100.1:567"], "198.51.100.1");
        check("10.0.0.1", &["[2001:db8::8]:8"], "2001:db8::8");
        check("10.0.0.1", &["[2001:db8::8]"], "2001:db8::8");
        check("10.0.0.1", &["2001:DB8::8"], "2001:db8::8");
        check("10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1");
        check("10.0.0.1", &["1.1.1.1, [::ffff:10.0.0.3]:80"], "1.1.1.1");
        check("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1");
        check("::ffff:203.0.113.5", &["198.51.100.1"], "203.0.113.5");
        check("10.0.0.1", &["\t198.51.100.1 \t"], "198.51.100.1");
    }

    #[test]
    fn what_cannot_be_understood_ends_the_walk_at_who_said_it() {
        for garbage in [
            "unknown",
            "_hidden",
            "198.51.100",
            "198.51.100.1:99999",
            "198.51.100.1:",
            "[198.51.100.1]",
            "[::1",
            "198.51.100.1/32",
            "\"198.51.100.1\"",
            "for=198.51.100.1",
            "198.51.100.1 198.51.100.2",
            "fe80::1%eth0",
            "0198.51.100.1",
        ] {
            check("10.0.0.1", &[garbage], "10.0.0.1");
            check("10.0.0.1", &[&format!("1.1.1.1, {garbage}, 10.0.0.9")], "10.0.0.9");
            check("10.0.0.1", &[&format!("{garbage}, 198.51.100.1")], "198.51.100.1");
        }
        let proxies = proxies();
        let not_text = proxies.client_address([10, 0, 0, 1].into(), &headers(&[b"1.1.1.1,\xff\xfe"]));
        assert_eq!(not_text, IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn empty_entries_say_nothing() {
        for empty in ["", ",", " , ,,", "\t"] {
            check("10.0.0.1", &[empty], "10.0.0.1");
        }
        check("10.0.0.1", &["198.51.100.1,, ,"], "198.51.100.1");
        check("10.0.0.1", &["198.51.100.1", ""], "198.51.100.1");
    }

    #[test]
    fn networks_hold_what_they_say() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("10.1.0.0/16", &["10.1.0.0", "10.1.255.255"], &["10.2.0.0", "10.0.255.255", "::"]),
            ("10.1.2.3/16", &["10.1.9.9"], &["10.2.0.0"]),
            ("10.0.0.7", &["10.0.0.7"], &["10.0.0.6"]),
            ("0.0.0.0/0", &["1.2.3.4"], &["::1"]),
            ("::/0", &["::1", "2001:db8::"], &["1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8:7fff::"], &["2001:db8:8000::"]),
            ("::ffff:10.0.0.0/104", &["10.200.0.1"], &["11.0.0.0"]),
            ("::ffff:10.0.0.1", &["10.0.0.1"], &["10.0.0.2"]),
        ];
        for (network, inside, outside) in table {
            let contains = |text: &str| network.parse::<Network>().unwrap().contains(text.parse().unwrap());
            assert!(inside.iter().all(|text| contains(text)), "{network}");
            assert!(!outside.iter().any(|text| contains(text)), "{network}");
        }
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "localhost",
            "10.0.0.1:80",
            "[::1]",
            " ::1",
            "10.0.0.0/8/8",
            "10.0.0.0/999",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_and_the_outcome_is_the_peer_or_an_entry(
            lines in prop::collection::vec("[0-9a-f:.,\\[\\] %/\t-]{0,40}", 0..4),
        ) {
            let bytes: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            let peer = IpAddr::from([10, 0, 0, 1]);
            let client = proxies().client_address(peer, &headers(&bytes));
            let listed = || lines.iter().flat_map(|line| line.split(',')).filter_map(|entry| read_entry(entry.trim().as_bytes()));
            prop_assert!(client == peer || listed().any(|address| address == client));
        }

        #[test]
        fn whatever_a_client_writes_a_proxy_that_adds_its_address_wins(written in prop::collection::vec(any::<u8>(), 0..40)) {
            let line: Vec<u8> = written.into_iter().filter(|byte| *byte >= 32 && *byte != 127).chain(*b", 198.51.100.1").collect();
            let client = proxies().client_address([10, 0, 0, 1].into(), &headers(&[&line]));
            prop_assert_eq!(client, IpAddr::from([198, 51, 100, 1]));
        }
    }
}
