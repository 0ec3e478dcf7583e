//! Special addresses, which do not belong to public hosts. A name that resolves to one does not allow it: a rule must
//! name the address.
//!
//! The ranges for documentation (TEST-NET-1 to 3, `2001:db8::/32`, `3fff::/20`) are not special here. They are not
//! routed, so treating them as public costs nothing, and tests use them for public hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range of addresses with a special purpose.
#[derive(Debug)]
struct Range {
    net: IpNet,
    name: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8, name: &'static str) -> Range {
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits));
    Range { net, name }
}

const fn v6(segments: [u16; 8], bits: u8, name: &'static str) -> Range {
    let [a, b, c, d, e, f, g, h] = segments;
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    let net = IpNet::V6(Ipv6Net::new_assert(address, bits));
    Range { net, name }
}

const METADATA: &str = "cloud metadata";

/// IANA's registries of special-purpose addresses, and the metadata services of clouds, which give out a machine's keys.
const RANGES: &[Range] = &[
    v4(0, 0, 0, 0, 8, "unspecified"),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 64, 0, 0, 10, "shared"),
    v4(100, 100, 100, 200, 32, METADATA),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(168, 63, 129, 16, 32, METADATA),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(169, 254, 42, 42, 32, METADATA),
    v4(169, 254, 169, 254, 32, METADATA),
    v4(169, 254, 170, 0, 24, METADATA),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "protocol assignments"),
    v4(192, 0, 0, 192, 32, METADATA),
    v4(192, 88, 99, 0, 24, "6to4 relay"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(198, 18, 0, 0, 15, "benchmarking"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 0, 4, "reserved"),
    v4(255, 255, 255, 255, 32, "broadcast"),
    // Only 2000::/3 is assigned to hosts; the rest is one of the ranges below, or unassigned.
    v6([0, 0, 0, 0, 0, 0, 0, 0], 3, "reserved"),
    v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2, "reserved"),
    v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1, "reserved"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, "IPv4-translated"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "protocol assignments"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local"),
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, METADATA),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, METADATA),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, METADATA),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Returns the name of the special range that contains `address`; `None` for a public address.
///
/// An IPv6 address that embeds an IPv4 address is special, even if that address is public.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    range(address).map(|range| range.name)
}

/// Returns whether a network lies inside a special range, so that a rule with it names special addresses. `10.1.0.0/16`
/// does; `0.0.0.0/0`, which only contains some, does not.
#[must_use]
pub fn names_special(net: &IpNet) -> bool {
    RANGES.iter().any(|range| range.net.contains(net))
}

/// Returns the network of the special range that contains `address`.
#[cfg(test)]
pub(crate) fn special_range(address: IpAddr) -> Option<IpNet> {
    range(address).map(|range| range.net)
}

/// Returns the narrowest range that contains the address, so that a rule for all link-local addresses does not name the
/// metadata service among them.
fn range(address: IpAddr) -> Option<&'static Range> {
    let holding = RANGES.iter().filter(|range| range.net.contains(&address));
    holding.max_by_key(|range| range.net.prefix_len())
}

/// Returns whether `nets` name this address if it is special. A public address need not be named; a special one needs a
/// network that lies inside its range.
///
/// So `10.0.0.0/8` names private addresses, and `0.0.0.0/0`, which only contains them, does not. An address that embeds
/// an IPv4 address needs both to be named.
pub(crate) fn are_open(nets: &[IpNet], address: IpAddr) -> bool {
    let is_open = match range(address) {
        None => true,
        Some(range) => nets
            .iter()
            .any(|net| range.net.contains(net) && net.contains(&address)),
    };

    is_open && embedded(address).all(|inner| are_open(nets, inner))
}

/// Returns the addresses that a rule must name to allow `address`: itself, and those that it embeds.
pub(crate) fn addresses_to_name(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let all = std::iter::once(address).chain(embedded(address));
    all.filter(|address| range(*address).is_some())
}

/// Returns the IPv4 addresses that an IPv6 address embeds.
fn embedded(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let found = match address {
        IpAddr::V4(_) => [None; 2],
        IpAddr::V6(address) => embedded_v4(address),
    };
    found.into_iter().flatten().map(IpAddr::V4)
}

fn embedded_v4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let bits = u128::from(address);
    let at = |shift: u32| Some(Ipv4Addr::from((bits >> shift) as u32));
    match address.segments() {
        // The unspecified and the loopback address embed nothing.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 2],
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [at(0), None],
        // The prefix of a local translator may have 48 or 96 bits (RFC 6052); with 48 bits, byte 8 is zero.
        [0x64, 0xff9b, 1, ..] => {
            let short = ((bits >> 64) as u32) << 16 | (bits >> 40) as u32 & 0xffff;
            [at(0), Some(Ipv4Addr::from(short))]
        }
        // Teredo: the server, and the client with all bits inverted.
        [0x2001, 0, ..] => [at(64), Some(Ipv4Addr::from(!(bits as u32)))],
        [0x2002, ..] => [at(80), None],
        _ => [None; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_have_a_range() {
        for (address, name) in [
            ("0.1.2.3", Some("unspecified")),
            ("10.255.255.255", Some("private")),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some("shared")),
            ("100.100.100.200", Some(METADATA)),
            ("127.0.0.1", Some("loopback")),
            ("168.63.129.16", Some(METADATA)),
            ("169.254.0.1", Some("link-local")),
            ("169.254.169.254", Some(METADATA)),
            ("172.15.255.255", None),
            ("172.31.255.255", Some("private")),
            ("172.32.0.0", None),
            ("192.168.0.1", Some("private")),
            ("198.19.255.255", Some("benchmarking")),
            ("224.0.0.1", Some("multicast")),
            ("250.0.0.1", Some("reserved")),
            ("255.255.255.255", Some("broadcast")),
            ("192.0.2.1", None),
            ("198.51.100.1", None),
            ("203.0.113.1", None),
            ("2001:db8::1", None),
            ("3fff::1", None),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("::203.0.113.1", Some("IPv4-compatible")),
            ("::ffff:203.0.113.1", Some("IPv4-mapped")),
            ("::ffff:0:203.0.113.1", Some("IPv4-translated")),
            ("64:ff9b::1", Some("NAT64")),
            ("64:ff9b:1::1", Some("local NAT64")),
            ("100::1", Some("discard")),
            ("2001::1", Some("Teredo")),
            ("2001:200::1", None),
            ("2002::1", Some("6to4")),
            ("4000::1", Some("reserved")),
            ("fd00:ec2::254", Some(METADATA)),
            ("fdff::1", Some("unique local")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("site-local")),
            ("ff02::1", Some("multicast")),
        ] {
            assert_eq!(special(address.parse().unwrap()), name, "{address}");
        }
    }

    #[test]
    fn every_range_is_unique_and_closed() {
        for (n, range) in RANGES.iter().enumerate() {
            assert!(
                RANGES[..n].iter().all(|other| other.net != range.net),
                "{range:?}"
            );
            assert_eq!(range.net, range.net.trunc(), "{range:?}");
            assert!(!are_open(&[], range.net.addr()), "{range:?}");
        }
    }

    #[test]
    fn embedded_addresses_are_found() {
        let inside = |text: &str| -> Vec<String> {
            embedded(text.parse().unwrap())
                .map(|address| address.to_string())
                .collect()
        };
        assert_eq!(inside("::ffff:10.1.2.3"), ["10.1.2.3"]);
        assert_eq!(inside("::10.1.2.3"), ["10.1.2.3"]);
        assert_eq!(inside("64:ff9b::10.1.2.3"), ["10.1.2.3"]);
        assert_eq!(inside("64:ff9b:1:a01:2:300::"), ["0.0.0.0", "10.1.2.3"]);
        assert_eq!(inside("2002:a01:203::1"), ["10.1.2.3"]);
        assert_eq!(
            inside("2001:0:cb00:7107::f5fe:fdfc"),
            ["203.0.113.7", "10.1.2.3"]
        );

        assert_eq!((inside("::1"), inside("2001:db8::1")), (vec![], vec![]));
    }
}
