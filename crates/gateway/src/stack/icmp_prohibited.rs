//! ICMP messages that say that a packet is prohibited.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr,
    Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr,
};

use super::device::GuestDevice;
use super::frame::{ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// Bytes of the prohibited packet's payload that the message quotes: the ports.
const QUOTED_BYTES: usize = 8;

const HOP_LIMIT: u8 = 64;

/// The ICMP type of an echo request.
const ECHO_REQUEST: u8 = 8;

/// Reports to the guest that its packet is prohibited, so that its program gets an error at once instead of waiting for an
/// answer that cannot come.
pub(super) fn send_prohibited(device: &mut GuestDevice, link: &LinkAddresses, frame: &[u8]) {
    let packet = &frame[ETHERNET_BYTES.min(frame.len())..];
    match packet.first().map(|first| first >> 4) {
        Some(4) => send_v4(device, link, packet),
        Some(6) => send_v6(device, link, packet),
        _ => None,
    };
}

fn send_v4(device: &mut GuestDevice, link: &LinkAddresses, bytes: &[u8]) -> Option<()> {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let header = Ipv4Repr::parse(&packet, &checksums).ok()?;
    let payload = packet.payload();
    let quoted = &payload[..payload.len().min(QUOTED_BYTES)];

    // ICMP errors are not answered with errors, and only the guest gets answers.
    if header.src_addr != link.guest.v4 || is_error_v4(&header, quoted) {
        return None;
    }

    let message = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::CommProhibited,
        header,
        data: quoted,
    };
    let ip = Ipv4Repr {
        src_addr: link.gateway.v4,
        dst_addr: link.guest.v4,
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let length = IPV4_HEADER_LEN + message.buffer_len();
    device.send(IPV4, length, |out| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *out), &checksums);
        let rest = &mut out[IPV4_HEADER_LEN..];
        message.emit(&mut Icmpv4Packet::new_unchecked(rest), &checksums);
    });
    Some(())
}

fn is_error_v4(header: &Ipv4Repr, payload: &[u8]) -> bool {
    // Echo requests are the only ICMP messages that are not treated as errors.
    header.next_header == IpProtocol::Icmp && payload.first() != Some(&ECHO_REQUEST)
}

fn send_v6(device: &mut GuestDevice, link: &LinkAddresses, bytes: &[u8]) -> Option<()> {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let header = Ipv6Repr::parse(&packet).ok()?;
    let payload = packet.payload();
    let quoted = &payload[..payload.len().min(QUOTED_BYTES)];

    // ICMPv6 types below 128 are errors, which are not answered with errors.
    let is_error =
        header.next_header == IpProtocol::Icmpv6 && quoted.first().is_none_or(|kind| *kind < 128);
    if header.src_addr != link.guest.v6 || header.dst_addr.is_multicast() || is_error {
        return None;
    }

    let message = Icmpv6Repr::DstUnreachable {
        reason: Icmpv6DstUnreachable::AdminProhibit,
        header,
        data: quoted,
    };
    let ip = Ipv6Repr {
        src_addr: link.gateway.v6,
        dst_addr: link.guest.v6,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let length = IPV6_HEADER_LEN + message.buffer_len();
    device.send(IPV6, length, |out| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
        let rest = &mut out[IPV6_HEADER_LEN..];
        let (from, to) = (&ip.src_addr, &ip.dst_addr);
        message.emit(from, to, &mut Icmpv6Packet::new_unchecked(rest), &checksums);
    });
    Some(())
}
