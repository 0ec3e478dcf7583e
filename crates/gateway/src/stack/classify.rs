//! Classifies the guest's frames. The stack sees a packet only if this module says so.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::four_tuple::FourTuple;
use super::frame::{ARP, ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// The port of name servers.
pub(crate) const DNS_PORT: u16 = 53;

/// The ICMPv6 type of a neighbor solicitation.
const NEIGHBOR_SOLICITATION: u8 = 135;

/// The class of one frame of the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameClass {
    /// A packet for the stack, with the connection that it opens, if it does.
    Packet { opens: Option<FourTuple> },
    /// An ARP message.
    Arp,
    /// An IPv6 neighbor solicitation.
    NeighborSolicitation,
    /// A packet that is never forwarded, and is answered with an ICMP error.
    Rejected(RejectedPacket),
    /// A message that a kernel sends to its neighbors by itself. There are none, so it is dropped.
    Ignored,
}

/// A packet of the guest that is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RejectedPacket {
    /// UDP to anything but the gateway's name server.
    Datagram(SocketAddr),
    /// A protocol other than TCP and UDP, by its number.
    Protocol { number: u8, address: IpAddr },
    /// A fragment of a packet.
    Fragment(IpAddr),
    /// A packet from an address that is not the guest's.
    Source(IpAddr),
    /// A new connection while the maximum number is open.
    Full(SocketAddr),
    /// A frame without a valid IPv4 or IPv6 packet, or one with wrong lengths.
    Malformed,
}

/// Classifies one frame.
pub(super) fn classify(link: &LinkAddresses, frame: &[u8]) -> FrameClass {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return FrameClass::Rejected(RejectedPacket::Malformed);
    };
    if ethernet.src_addr().0 != link.guest.mac {
        return FrameClass::Rejected(RejectedPacket::Malformed);
    }

    let packet = &frame[ETHERNET_BYTES..];
    // The stack goes by the packet's own version field, so the EtherType must agree with it.
    let version = packet.first().map(|first| first >> 4);
    match [frame[12], frame[13]] {
        IPV4 if version == Some(4) => classify_v4(link, packet),
        IPV6 if version == Some(6) => classify_v6(link, packet),
        ARP => FrameClass::Arp,
        _ => FrameClass::Rejected(RejectedPacket::Malformed),
    }
}

fn classify_v4(link: &LinkAddresses, bytes: &[u8]) -> FrameClass {
    let Ok(packet) = Ipv4Packet::new_checked(bytes) else {
        return FrameClass::Rejected(RejectedPacket::Malformed);
    };
    let (source, to) = (packet.src_addr(), packet.dst_addr());
    let unconfigured = source.is_unspecified();
    if source != link.guest.v4 && !unconfigured {
        return FrameClass::Rejected(RejectedPacket::Source(source.into()));
    }

    // Fragments would have to be reassembled before they can be checked.
    if packet.more_frags() || packet.frag_offset() != 0 {
        return FrameClass::Rejected(RejectedPacket::Fragment(to.into()));
    }

    let protocol = packet.next_header();
    if protocol == IpProtocol::Igmp && to.is_multicast() {
        return FrameClass::Ignored;
    }

    let payload = IpPayload {
        from: source.into(),
        to: to.into(),
        is_unicast: !(to.is_multicast()
            || to.is_broadcast()
            || to.is_unspecified()
            || unconfigured),
        bytes: packet.payload(),
    };
    payload.classify(link, protocol)
}

fn classify_v6(link: &LinkAddresses, bytes: &[u8]) -> FrameClass {
    let Ok(packet) = Ipv6Packet::new_checked(bytes) else {
        return FrameClass::Rejected(RejectedPacket::Malformed);
    };
    let (source, to) = (packet.src_addr(), packet.dst_addr());
    let protocol = packet.next_header();

    if protocol == IpProtocol::Icmpv6 && packet.payload().first() == Some(&NEIGHBOR_SOLICITATION) {
        return FrameClass::NeighborSolicitation;
    }
    if to.is_multicast() && (protocol == IpProtocol::Icmpv6 || protocol == IpProtocol::HopByHop) {
        return FrameClass::Ignored;
    }

    // A kernel uses link-local addresses by itself; TCP from them is rejected below.
    if source != link.guest.v6 && !is_link_local(source) {
        return FrameClass::Rejected(RejectedPacket::Source(source.into()));
    }
    if protocol == IpProtocol::Ipv6Frag {
        return FrameClass::Rejected(RejectedPacket::Fragment(to.into()));
    }

    let payload = IpPayload {
        from: source.into(),
        to: to.into(),
        is_unicast: !(to.is_multicast() || to.is_unspecified()) && source == link.guest.v6,
        bytes: packet.payload(),
    };
    payload.classify(link, protocol)
}

/// Returns whether a kernel assigns itself this address.
fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unspecified() || address.is_unicast_link_local()
}

/// The payload of an IP packet, with its addresses.
struct IpPayload<'a> {
    from: IpAddr,
    to: IpAddr,
    /// Whether both addresses are unicast addresses, and the source is the guest's.
    is_unicast: bool,
    bytes: &'a [u8],
}

impl IpPayload<'_> {
    fn classify(&self, link: &LinkAddresses, protocol: IpProtocol) -> FrameClass {
        match protocol {
            IpProtocol::Tcp => self.classify_tcp(),
            IpProtocol::Udp => self.classify_udp(link),
            // Only the gateway itself can be pinged.
            IpProtocol::Icmp | IpProtocol::Icmpv6 if link.gateway.has(self.to) => {
                FrameClass::Packet { opens: None }
            }
            _ => self.reject(protocol),
        }
    }

    fn reject(&self, protocol: IpProtocol) -> FrameClass {
        FrameClass::Rejected(RejectedPacket::Protocol {
            number: protocol.into(),
            address: self.to,
        })
    }

    fn classify_tcp(&self) -> FrameClass {
        let Ok(segment) = TcpPacket::new_checked(self.bytes) else {
            return FrameClass::Rejected(RejectedPacket::Malformed);
        };
        if !self.is_unicast {
            return self.reject(IpProtocol::Tcp);
        }

        let tuple = FourTuple {
            guest: SocketAddr::new(self.from, segment.src_port()),
            remote: SocketAddr::new(self.to, segment.dst_port()),
        };
        if tuple.guest.port() == 0 || tuple.remote.port() == 0 {
            return FrameClass::Rejected(RejectedPacket::Malformed);
        }

        let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        FrameClass::Packet {
            opens: opens.then_some(tuple),
        }
    }

    fn classify_udp(&self, link: &LinkAddresses) -> FrameClass {
        let Ok(datagram) = UdpPacket::new_checked(self.bytes) else {
            return FrameClass::Rejected(RejectedPacket::Malformed);
        };
        let port = datagram.dst_port();
        if self.is_unicast && link.gateway.has(self.to) && port == DNS_PORT {
            FrameClass::Packet { opens: None }
        } else {
            FrameClass::Rejected(RejectedPacket::Datagram(SocketAddr::new(self.to, port)))
        }
    }
}
