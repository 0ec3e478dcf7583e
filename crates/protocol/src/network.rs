//! The addresses of a guest's network card and of the gateway on the host. Each guest has a separate link, so
//! all guests have the same addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The guest's Ethernet address: locally administered.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x66, 0x75, 0x6d, 0x65, 0x02];
/// The gateway's Ethernet address.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x66, 0x75, 0x6d, 0x65, 0x01];

/// The guest's IPv4 address, from a range that is never routed in public.
pub const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The gateway's IPv4 address, which is the guest's router and name server.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The prefix length of the IPv4 network, in bits.
pub const IPV4_PREFIX: u8 = 30;

/// The guest's IPv6 address, unique local.
pub const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 2);
/// The gateway's IPv6 address, which is the guest's router.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 1);
/// The prefix length of the IPv6 network, in bits.
pub const IPV6_PREFIX: u8 = 64;

/// The maximum payload of a frame, in bytes, without its header. This is the largest that QEMU accepts: a guest
/// sends and receives nearly twice as much per second as with 1500 (measured under emulation).
pub const MTU: u16 = 65_521;

/// The size of an Ethernet header, in bytes.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// The maximum size of a frame, in bytes.
pub const FRAME_BYTES: usize = MTU as usize + ETHERNET_HEADER_BYTES;
