use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr,
    Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr,
};

use super::device::Cable;
use super::frame::{ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// Bytes of a packet that the word about it quotes: its header, and the ports behind it.
const QUOTED_BYTES: usize = 8;

/// How far such a word travels: to the other end of the cable.
const HOPS: u8 = 64;

/// Tells the guest that a packet of its is prohibited: its program gets an error at once and need not wait for
/// an answer that cannot come.
pub(super) fn prohibit(cable: &mut Cable, link: &LinkAddresses, frame: &[u8]) {
    let packet = &frame[ETHERNET_BYTES.min(frame.len())..];
    match packet.first().map(|first| first >> 4) {
        Some(4) => v4(cable, link, packet),
        Some(6) => v6(cable, link, packet),
        _ => None,
    };
}

fn v4(cable: &mut Cable, link: &LinkAddresses, bytes: &[u8]) -> Option<()> {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let header = Ipv4Repr::parse(&packet, &checksums).ok()?;
    let quoted = packet.payload();
    let quoted = &quoted[..quoted.len().min(QUOTED_BYTES)];
    // Nothing is said about a word of this kind, or to somebody else than the guest.
    if header.src_addr != link.guest.v4 || is_error_v4(&header, quoted) {
        return None;
    }
    let word = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::CommProhibited,
        header,
        data: quoted,
    };
    let ip = Ipv4Repr {
        src_addr: link.gateway.v4,
        dst_addr: link.guest.v4,
        next_header: IpProtocol::Icmp,
        payload_len: word.buffer_len(),
        hop_limit: HOPS,
    };
    let length = IPV4_HEADER_LEN + word.buffer_len();
    cable.send(IPV4, length, |out| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *out), &checksums);
        let rest = &mut out[IPV4_HEADER_LEN..];
        word.emit(&mut Icmpv4Packet::new_unchecked(rest), &checksums);
    });
    Some(())
}

fn is_error_v4(header: &Ipv4Repr, payload: &[u8]) -> bool {
    // Echo is the only kind of ICMP that is a question.
    header.next_header == IpProtocol::Icmp && payload.first() != Some(&8)
}

fn v6(cable: &mut Cable, link: &LinkAddresses, bytes: &[u8]) -> Option<()> {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let header = Ipv6Repr::parse(&packet).ok()?;
    let quoted = packet.payload();
    let quoted = &quoted[..quoted.len().min(QUOTED_BYTES)];
    let is_error =
        header.next_header == IpProtocol::Icmpv6 && quoted.first().is_none_or(|kind| *kind < 128);
    if header.src_addr != link.guest.v6 || header.dst_addr.is_multicast() || is_error {
        return None;
    }
    let word = Icmpv6Repr::DstUnreachable {
        reason: Icmpv6DstUnreachable::AdminProhibit,
        header,
        data: quoted,
    };
    let ip = Ipv6Repr {
        src_addr: link.gateway.v6,
        dst_addr: link.guest.v6,
        next_header: IpProtocol::Icmpv6,
        payload_len: word.buffer_len(),
        hop_limit: HOPS,
    };
    let length = IPV6_HEADER_LEN + word.buffer_len();
    cable.send(IPV6, length, |out| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
        let rest = &mut out[IPV6_HEADER_LEN..];
        let (from, to) = (&ip.src_addr, &ip.dst_addr);
        word.emit(from, to, &mut Icmpv6Packet::new_unchecked(rest), &checksums);
    });
    Some(())
}
