//! The guest of a script, as far as it knows its connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};

use crate::link::{Endpoint, LinkAddresses};

pub(super) const LINK: LinkAddresses = LinkAddresses {
    guest: Endpoint {
        mac: [2, 0x66, 0x75, 0x6d, 0x65, 2],
        v4: Ipv4Addr::new(198, 18, 0, 2),
        v6: Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 2),
    },
    gateway: Endpoint {
        mac: [2, 0x66, 0x75, 0x6d, 0x65, 1],
        v4: Ipv4Addr::new(198, 18, 0, 1),
        v6: Ipv6Addr::new(0xfd66, 0x756d, 0x6568, 0, 0, 0, 0, 1),
    },
    mtu: 1500,
};

/// The guest's first sequence number.
pub(super) const FIRST_SEQ: u32 = 0xffff_ff00;

/// One connection, as a guest's kernel knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuestConnection {
    pub(super) guest: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The next sequence number that the guest sends.
    pub(super) ours: u32,
    /// The next sequence number that it expects.
    pub(super) theirs: u32,
}

/// The state of a guest.
#[derive(Debug, Default)]
pub(super) struct Guest {
    pub(super) connections: Vec<GuestConnection>,
}

/// Maximum number of known connections. A new one replaces the oldest.
const MAX_CONNECTIONS: usize = 32;

impl Guest {
    /// Returns a known connection, or adds it.
    pub(super) fn connection(
        &mut self,
        guest: SocketAddr,
        remote: SocketAddr,
    ) -> &mut GuestConnection {
        let is =
            |connection: &GuestConnection| connection.guest == guest && connection.remote == remote;
        let at = self.connections.iter().position(is).unwrap_or_else(|| {
            if self.connections.len() == MAX_CONNECTIONS {
                self.connections.remove(0);
            }

            self.connections.push(GuestConnection {
                guest,
                remote,
                ours: FIRST_SEQ,
                theirs: 0,
            });

            self.connections.len() - 1
        });

        &mut self.connections[at]
    }

    /// Reads frames in QEMU's format. All must be complete, valid, and for this guest.
    pub(super) fn read(&mut self, mut out: &[u8]) {
        while let Some((length, rest)) = out.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let (frame, rest) = rest.split_at(length);
            out = rest;
            self.frame(frame);
        }

        assert!(out.is_empty(), "an incomplete length");
    }

    fn frame(&mut self, frame: &[u8]) {
        let ethernet = EthernetFrame::new_checked(frame).expect("a frame");
        assert!(ethernet.payload().len() <= LINK.mtu);
        assert_eq!(ethernet.dst_addr().0, LINK.guest.mac);
        assert_eq!(ethernet.src_addr().0, LINK.gateway.mac);

        // The payload must be a valid packet for this guest.
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
                assert!(packet.verify_checksum());
                let (from, to) = (packet.src_addr(), packet.dst_addr());
                self.packet(
                    from.into(),
                    to.into(),
                    packet.next_header(),
                    packet.payload(),
                );
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(ethernet.payload()).expect("a packet");
                let (from, to) = (packet.src_addr(), packet.dst_addr());
                self.packet(
                    from.into(),
                    to.into(),
                    packet.next_header(),
                    packet.payload(),
                );
            }
            EthernetProtocol::Arp => {}
            other => panic!("a frame of kind {other}"),
        }
    }

    fn packet(&mut self, from: IpAddr, to: IpAddr, number: IpProtocol, payload: &[u8]) {
        assert!(LINK.guest.has(to), "a packet for {to}");
        match number {
            IpProtocol::Tcp => self.segment(from, to, payload),
            IpProtocol::Udp => assert!(LINK.gateway.has(from), "a datagram from {from}"),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => {}
            other => panic!("a packet of protocol {other}"),
        }
    }

    fn segment(&mut self, from: IpAddr, to: IpAddr, payload: &[u8]) {
        let segment = TcpPacket::new_checked(payload).expect("a segment");
        assert!(segment.verify_checksum(&from.into(), &to.into()));
        let length = segment.segment_len() as u32;
        let next = (segment.seq_number().0 as u32).wrapping_add(length);
        let guest = SocketAddr::new(to, segment.dst_port());
        let connection = self.connection(guest, SocketAddr::new(from, segment.src_port()));
        let ahead = next.wrapping_sub(connection.theirs) as i32;

        if segment.syn() || (ahead > 0 && !segment.rst()) {
            connection.theirs = next;
        }
    }
}
