//! Answers requests for the gateway's hardware address, by ARP and by IPv6 neighbor discovery.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IPV6_HEADER_LEN, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::device::GuestDevice;
use super::frame::{ARP, ETHERNET_BYTES, IPV6};
use crate::link::LinkAddresses;

/// The hop limit of neighbor discovery. A packet that has passed a router has a lower one.
const NDP_HOP_LIMIT: u8 = 255;

/// Answers an ARP request for the gateway's address. Our guests have it configured; another system in the VM may ask.
pub(super) fn answer_arp(
    device: &mut GuestDevice,
    link: &LinkAddresses,
    frame: &[u8],
) -> Option<()> {
    let packet = ArpPacket::new_checked(frame.get(ETHERNET_BYTES..)?).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    if source_protocol_addr != link.guest.v4 || target_protocol_addr != link.gateway.v4 {
        return None;
    }

    // The reply goes to the guest's configured addresses, not to those in the request.
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(link.gateway.mac),
        source_protocol_addr: link.gateway.v4,
        target_hardware_addr: EthernetAddress(link.guest.mac),
        target_protocol_addr: link.guest.v4,
    };
    device.send(ARP, reply.buffer_len(), |out| {
        reply.emit(&mut ArpPacket::new_unchecked(out));
    });
    Some(())
}

/// Answers an IPv6 neighbor solicitation for the gateway's address.
pub(super) fn answer_solicitation(
    device: &mut GuestDevice,
    link: &LinkAddresses,
    frame: &[u8],
) -> Option<()> {
    let checksums = ChecksumCapabilities::default();
    let packet = Ipv6Packet::new_checked(frame.get(ETHERNET_BYTES..)?).ok()?;
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let parsed = Icmpv6Repr::parse(&from, &to, &message, &checksums).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) = parsed else {
        return None;
    };
    if target_addr != link.gateway.v6
        || from != link.guest.v6
        || packet.hop_limit() != NDP_HOP_LIMIT
    {
        return None;
    }

    // The advertisement, in a packet.
    let mac = EthernetAddress(link.gateway.mac);
    let reply = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr,
        lladdr: Some(RawHardwareAddress::from(mac)),
    });
    let ip = Ipv6Repr {
        src_addr: link.gateway.v6,
        dst_addr: link.guest.v6,
        next_header: IpProtocol::Icmpv6,
        payload_len: reply.buffer_len(),
        hop_limit: NDP_HOP_LIMIT,
    };
    device.send(IPV6, IPV6_HEADER_LEN + reply.buffer_len(), |out| {
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
        let rest = &mut out[IPV6_HEADER_LEN..];
        let (from, to) = (&ip.src_addr, &ip.dst_addr);
        reply.emit(from, to, &mut Icmpv6Packet::new_unchecked(rest), &checksums);
    });
    Some(())
}

/// Returns the address that the guest claims by ARP, if it is not the guest's. The claim has no effect.
pub(super) fn spoofed_address(link: &LinkAddresses, frame: &[u8]) -> Option<Ipv4Addr> {
    let packet = ArpPacket::new_checked(frame.get(ETHERNET_BYTES..)?).ok()?;
    let ArpRepr::EthernetIpv4 {
        source_protocol_addr: claimed,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    (claimed != link.guest.v4 && !claimed.is_unspecified()).then_some(claimed)
}
