//! Builds packets with correct checksums around arbitrary fields.

use std::net::IpAddr;

use crate::link::LinkAddresses;

/// The protocol number of TCP.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Protocol numbers, with the offset of the checksum in each.
const CHECKSUMS: [(u8, usize); 4] = [(TCP, 16), (UDP, 6), (ICMP, 2), (ICMPV6, 2)];

const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;

/// Returns an Ethernet frame of the guest with this packet.
pub(super) fn frame(link: &LinkAddresses, packet: &[u8]) -> Vec<u8> {
    let kind = match packet.first().map(|first| first >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    [&link.gateway.mac[..], &link.guest.mac, &kind, packet].concat()
}

/// Returns a packet with the shortest header. Both addresses must be of the same family.
pub(super) fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| low((header + payload.len()) as u64);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&length(V4_BYTES));
            header.extend(from.octets().into_iter().chain(to.octets()));
            header.extend(payload);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&length(0));
            header.extend(from.octets().into_iter().chain(to.octets()));
            header.extend(payload);
            header
        }
        _ => Vec::new(),
    }
}

/// A segment without its checksum.
pub(super) struct Tcp<'a> {
    pub(super) ports: (u16, u16),
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Tcp<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        /// Maximum length of the options, which the header's length field allows.
        const OPTIONS_BYTES: usize = 40;
        let options = &self.options[..self.options.len().min(OPTIONS_BYTES)];
        let words = options.len().div_ceil(4);
        let offset = u8::try_from(5 + words).unwrap_or(15) << 4;
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([offset, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.resize(V4_BYTES + words * 4, 0);
        bytes.extend(self.payload);

        bytes
    }
}

/// A datagram without its checksum.
pub(super) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(low(8 + payload.len() as u64));
    bytes.extend([0; 2]);
    bytes.extend(payload);
    bytes
}

/// Writes the correct checksums, as far as the packet can be parsed.
pub(super) fn fix_checksums(packet: &mut [u8]) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= V4_BYTES => {
            let header = (usize::from(packet[0] & 15) * 4).clamp(V4_BYTES, packet.len());
            put(&mut packet[..header], 10, 0);
            let (head, payload) = packet.split_at_mut(header);
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let length = length.saturating_sub(header).min(payload.len());
            fix_payload_checksum(head[9], &head[12..20], &mut payload[..length]);
        }
        Some(6) if packet.len() >= V6_BYTES => {
            let (head, payload) = packet.split_at_mut(V6_BYTES);
            let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
            let length = length.min(payload.len());
            fix_payload_checksum(head[6], &head[8..40], &mut payload[..length]);
        }
        _ => {}
    }
}

fn fix_payload_checksum(protocol: u8, addresses: &[u8], payload: &mut [u8]) {
    let Some((_, at)) = CHECKSUMS.iter().find(|(number, _)| *number == protocol) else {
        return;
    };

    let pseudo = match protocol {
        ICMP => 0,
        _ => sum(addresses) + u64::from(protocol) + payload.len() as u64,
    };

    put(payload, *at, pseudo);
}

fn put(bytes: &mut [u8], at: usize, more: u64) {
    if bytes.len() < at + 2 {
        return;
    }

    bytes[at..at + 2].fill(0);
    let mut sum = sum(bytes) + more;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }

    bytes[at..at + 2].copy_from_slice(&low(!sum));
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum()
}

/// Returns the lowest 16 bits in big-endian order.
fn low(number: u64) -> [u8; 2] {
    let [.., high, low] = number.to_be_bytes();
    [high, low]
}
