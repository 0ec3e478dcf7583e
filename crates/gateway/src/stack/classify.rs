use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket};

use super::four_tuple::Tuple;
use super::frame::{ARP, ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// Where name servers listen.
pub(crate) const DNS_PORT: u16 = 53;

/// What one frame of a guest is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A packet for the stack; with the connection that it wants to open, if it does.
    Packet { opens: Option<Tuple> },
    /// A question for a hardware address.
    Arp,
    /// The same by IPv6.
    Solicitation,
    /// What is never let through, and is answered by a word that it is prohibited.
    Refused(Refused),
    /// What a kernel says to its neighbours of its own accord; nobody is there.
    Chatter,
}

/// What a guest sent that is never let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// UDP to somebody else than the name server.
    Datagram(SocketAddr),
    /// Another protocol than TCP and UDP, by its number.
    Protocol { number: u8, address: IpAddr },
    /// Part of a packet.
    Fragment(IpAddr),
    /// A packet from an address that is not the guest's.
    Source(IpAddr),
    /// A connection that there is no room for.
    Full(SocketAddr),
    /// What is no packet of IPv4 or IPv6, or one whose lengths are wrong.
    Malformed,
}

/// Looks at one frame. The stack sees a packet only when this says so.
pub(super) fn classify(link: &LinkAddresses, frame: &[u8]) -> Class {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else {
        return Class::Refused(Refused::Malformed);
    };
    if ethernet.src_addr().0 != link.guest.mac {
        return Class::Refused(Refused::Malformed);
    }
    let packet = &frame[ETHERNET_BYTES..];
    // The stack goes by the version that a packet says itself; here nobody may think otherwise.
    let version = packet.first().map(|first| first >> 4);
    match [frame[12], frame[13]] {
        IPV4 if version == Some(4) => v4(link, packet),
        IPV6 if version == Some(6) => v6(link, packet),
        ARP => Class::Arp,
        _ => Class::Refused(Refused::Malformed),
    }
}

fn v4(link: &LinkAddresses, bytes: &[u8]) -> Class {
    let Ok(packet) = Ipv4Packet::new_checked(bytes) else {
        return Class::Refused(Refused::Malformed);
    };
    let (source, to) = (packet.src_addr(), packet.dst_addr());
    let unconfigured = source.is_unspecified();
    if source != link.guest.v4 && !unconfigured {
        return Class::Refused(Refused::Source(source.into()));
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Class::Refused(Refused::Fragment(to.into()));
    }
    let number = packet.next_header();
    if number == IpProtocol::Igmp && to.is_multicast() {
        return Class::Chatter;
    }
    let carried = Carried {
        from: source.into(),
        to: to.into(),
        unicast: !(to.is_multicast() || to.is_broadcast() || to.is_unspecified() || unconfigured),
        payload: packet.payload(),
    };
    carried.classify(link, number)
}

fn v6(link: &LinkAddresses, bytes: &[u8]) -> Class {
    let Ok(packet) = Ipv6Packet::new_checked(bytes) else {
        return Class::Refused(Refused::Malformed);
    };
    let (source, to) = (packet.src_addr(), packet.dst_addr());
    let number = packet.next_header();
    if number == IpProtocol::Icmpv6 && packet.payload().first() == Some(&SOLICITATION) {
        return Class::Solicitation;
    }
    if to.is_multicast() && (number == IpProtocol::Icmpv6 || number == IpProtocol::HopByHop) {
        return Class::Chatter;
    }
    if source != link.guest.v6 && !own_of_the_link(source) {
        return Class::Refused(Refused::Source(source.into()));
    }
    if number == IpProtocol::Ipv6Frag {
        return Class::Refused(Refused::Fragment(to.into()));
    }
    let carried = Carried {
        from: source.into(),
        to: to.into(),
        unicast: !(to.is_multicast() || to.is_unspecified()) && source == link.guest.v6,
        payload: packet.payload(),
    };
    carried.classify(link, number)
}

/// Neighbour solicitation, as ICMPv6 numbers its messages.
const SOLICITATION: u8 = 135;

/// An address that a kernel gives itself.
fn own_of_the_link(address: Ipv6Addr) -> bool {
    address.is_unspecified() || address.is_unicast_link_local()
}

struct Carried<'a> {
    from: IpAddr,
    to: IpAddr,
    unicast: bool,
    payload: &'a [u8],
}

impl Carried<'_> {
    fn classify(&self, link: &LinkAddresses, number: IpProtocol) -> Class {
        match number {
            IpProtocol::Tcp => self.tcp(),
            IpProtocol::Udp => self.udp(link),
            // The gateway itself may be asked whether it is there; nobody else can be.
            IpProtocol::Icmp | IpProtocol::Icmpv6 if link.gateway.has(self.to) => {
                Class::Packet { opens: None }
            }
            _ => self.prohibited(number),
        }
    }

    fn prohibited(&self, number: IpProtocol) -> Class {
        Class::Refused(Refused::Protocol {
            number: number.into(),
            address: self.to,
        })
    }

    fn tcp(&self) -> Class {
        let Ok(segment) = TcpPacket::new_checked(self.payload) else {
            return Class::Refused(Refused::Malformed);
        };
        if !self.unicast {
            return self.prohibited(IpProtocol::Tcp);
        }
        let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        let tuple = Tuple {
            guest: SocketAddr::new(self.from, segment.src_port()),
            remote: SocketAddr::new(self.to, segment.dst_port()),
        };
        match tuple.guest.port() == 0 || tuple.remote.port() == 0 {
            true => Class::Refused(Refused::Malformed),
            false => Class::Packet {
                opens: opens.then_some(tuple),
            },
        }
    }

    fn udp(&self, link: &LinkAddresses) -> Class {
        let Ok(datagram) = UdpPacket::new_checked(self.payload) else {
            return Class::Refused(Refused::Malformed);
        };
        let port = datagram.dst_port();
        match self.unicast && link.gateway.has(self.to) && port == DNS_PORT {
            true => Class::Packet { opens: None },
            false => Class::Refused(Refused::Datagram(SocketAddr::new(self.to, port))),
        }
    }
}
