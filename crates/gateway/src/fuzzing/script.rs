//! The scripts: acts of a guest, of its host, and of time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Arbitrary, Unstructured};

use super::guest::{FIRST_SEQ, Guest, GuestConnection, LINK};
use super::packet::{self, Tcp};
use super::services::PORTS;

/// One act of a script.
#[derive(Debug, Arbitrary)]
pub(super) enum Act {
    Open {
        remote: Remote,
        from: u8,
        options: Options,
        window: u16,
    },
    Segment {
        connection: u8,
        flags: Flags,
        seq: Nudge,
        ack: Nudge,
        window: u16,
        options: Options,
        payload: Payload,
        edits: Edits,
    },
    /// Acknowledges everything on every connection, as a kernel does.
    Acknowledge {
        window: u16,
    },
    Datagram {
        remote: Remote,
        payload: Payload,
        edits: Edits,
    },
    /// A packet of any protocol from the guest's address.
    Packet {
        remote: Remote,
        protocol: u8,
        payload: Vec<u8>,
        edits: Edits,
    },
    Neighbour {
        v6: bool,
        edits: Edits,
    },
    /// Arbitrary bytes as a frame.
    Frame(Vec<u8>),
    /// Arbitrary bytes on the wire, without a length.
    Wire(Vec<u8>),
    /// The host connects to a port of the guest.
    Inbound {
        v6: bool,
        port: u8,
    },
    Wait {
        millis: u16,
    },
    /// Whether the guest reads incoming frames.
    Listen(bool),
    /// Aborts all tasks, which drops their connections.
    Abort,
}

#[derive(Debug, Arbitrary)]
pub(super) struct Remote {
    pub(super) address: u8,
    pub(super) port: u8,
}

const ADDRESSES: [IpAddr; 16] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
    IpAddr::V4(LINK.gateway.v4),
    IpAddr::V6(LINK.gateway.v6),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
    IpAddr::V4(LINK.guest.v4),
    IpAddr::V6(LINK.guest.v6),
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 255)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xcb00, 0x7107)),
];

const OTHER_PORTS: [u16; 6] = [80, 443, 53, 22, 8080, 0];

impl Remote {
    fn socket(&self) -> SocketAddr {
        let address = ADDRESSES[usize::from(self.address) % ADDRESSES.len()];
        let port = usize::from(self.port) % (PORTS.len() + OTHER_PORTS.len());
        let port = PORTS.iter().chain(&OTHER_PORTS).nth(port);
        SocketAddr::new(address, port.copied().unwrap_or_default())
    }
}

#[derive(Debug, Arbitrary)]
pub(super) enum Flags {
    Ack,
    Push,
    Fin,
    SynAck,
    Syn,
    Rst,
    RstAck,
    Any(u8),
}

impl Flags {
    fn bits(&self) -> u8 {
        match self {
            Self::Ack => 0x10,
            Self::Push => 0x18,
            Self::Fin => 0x11,
            Self::SynAck => 0x12,
            Self::Syn => 0x02,
            Self::Rst => 0x04,
            Self::RstAck => 0x14,
            Self::Any(bits) => *bits,
        }
    }
}

/// The distance of a sequence number from the correct one.
#[derive(Debug, Arbitrary)]
pub(super) enum Nudge {
    Right,
    RightToo,
    Near(i8),
    Far(i32),
}

impl Nudge {
    fn on(&self, number: u32) -> u32 {
        match self {
            Self::Right | Self::RightToo => number,
            Self::Near(by) => number.wrapping_add_signed((*by).into()),
            Self::Far(by) => number.wrapping_add_signed(*by),
        }
    }
}

#[derive(Debug, Arbitrary)]
pub(super) enum Options {
    None,
    Usual { mss: u16, scale: u8 },
    Any(Vec<u8>),
}

impl Options {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Usual { mss, scale } => {
                let [high, low] = mss.to_be_bytes();
                vec![2, 4, high, low, 4, 2, 1, 3, 3, *scale]
            }
            Self::Any(bytes) => bytes.clone(),
        }
    }
}

/// The payload of a segment or a datagram.
#[derive(Debug, Arbitrary)]
pub(super) enum Payload {
    Nothing,
    Words(u8),
    Fill(u16),
    Bytes(Vec<u8>),
}

const WORDS: [&[u8]; 5] = [
    b"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x13\x01\x01\x00\x00\x00",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06denied\x04test\x00\x00\x01\x00\x01",
    b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06denied\x04test\x00\x00\x01\x00\x01",
];

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        /// More bytes than fit into a packet.
        const FILL: u16 = 1600;
        match self {
            Self::Nothing => Vec::new(),
            Self::Words(at) => WORDS[usize::from(*at) % WORDS.len()].to_vec(),
            Self::Fill(length) => vec![b'f'; usize::from(length % FILL)],
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// Changes to bytes of a packet, before or after its checksums are computed.
#[derive(Debug, Arbitrary)]
pub(super) enum Edits {
    None,
    NoneToo,
    BeforeChecksums(Vec<(u8, u8)>),
    AfterChecksums(Vec<(u8, u8)>),
}

impl Edits {
    fn finish(&self, mut packet: Vec<u8>) -> Vec<u8> {
        let change = |packet: &mut Vec<u8>, edits: &[(u8, u8)]| {
            for (at, with) in edits {
                if let Some(byte) = packet.get_mut(usize::from(*at)) {
                    *byte ^= with;
                }
            }
        };

        if let Self::BeforeChecksums(edits) = self {
            change(&mut packet, edits);
        }

        packet::fix_checksums(&mut packet);
        if let Self::AfterChecksums(edits) = self {
            change(&mut packet, edits);
        }

        packet::frame(&LINK, &packet)
    }
}

/// Decodes a script.
pub(super) fn read(bytes: &[u8]) -> Vec<Act> {
    /// Maximum number of acts of a script. More make it slower and find nothing more.
    const ACTS: usize = 64;
    let mut rest = Unstructured::new(bytes);
    let mut acts = Vec::new();

    while !rest.is_empty() && acts.len() < ACTS {
        acts.extend(rest.arbitrary::<Act>().ok());
    }

    acts
}

impl Act {
    /// Returns the frames of this act.
    pub(super) fn frames(&self, guest: &mut Guest) -> Vec<Vec<u8>> {
        match self {
            Self::Open { .. } => vec![self.open(guest)],
            Self::Segment { .. } => self.segment(guest).into_iter().collect(),
            Self::Acknowledge { window } => {
                let connections = guest.connections.iter();
                connections
                    .map(|connection| plain(connection, *window))
                    .collect()
            }
            Self::Datagram {
                remote,
                payload,
                edits,
            } => {
                let to = remote.socket();
                let datagram = packet::udp((40_000, to.port()), &payload.bytes());
                vec![edits.finish(around(to.ip(), packet::UDP, &datagram))]
            }
            Self::Packet {
                remote,
                protocol,
                payload,
                edits,
            } => vec![edits.finish(around(remote.socket().ip(), *protocol, payload))],
            Self::Neighbour { v6, edits } => vec![neighbour(*v6, edits)],
            Self::Frame(bytes) => vec![bytes.clone()],
            _ => Vec::new(),
        }
    }

    fn open(&self, guest: &mut Guest) -> Vec<u8> {
        let Self::Open {
            remote,
            from,
            options,
            window,
        } = self
        else {
            return Vec::new();
        };

        let remote = remote.socket();
        let own = SocketAddr::new(own(remote.ip()), 40_000 + u16::from(from % 32));
        let connection = guest.connection(own, remote);
        connection.ours = FIRST_SEQ;
        let bytes = tcp(connection, 0x02, *window, &options.bytes(), &[]);
        connection.ours = connection.ours.wrapping_add(1);

        Edits::None.finish(bytes)
    }

    fn segment(&self, guest: &mut Guest) -> Option<Vec<u8>> {
        let Self::Segment {
            connection,
            flags,
            seq,
            ack,
            window,
            options,
            payload,
            edits,
        } = self
        else {
            return None;
        };

        let count = guest.connections.len().max(1);
        let connection = guest
            .connections
            .get_mut(usize::from(*connection) % count)?;
        let (flags, payload) = (flags.bits(), payload.bytes());

        // The segment may deviate from the correct sequence numbers.
        let nudged = GuestConnection {
            ours: seq.on(connection.ours),
            theirs: ack.on(connection.theirs),
            ..*connection
        };

        let bytes = tcp(&nudged, flags, *window, &options.bytes(), &payload);

        // A correct segment moves the guest's sequence number.
        if matches!(seq, Nudge::Right | Nudge::RightToo) {
            let ends = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
            let length = u32::try_from(payload.len()).unwrap_or_default();
            connection.ours = connection.ours.wrapping_add(length + ends);
        }

        Some(edits.finish(bytes))
    }
}

fn own(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(_) => LINK.guest.v4.into(),
        IpAddr::V6(_) => LINK.guest.v6.into(),
    }
}

fn around(to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet::ip(own(to), to, protocol, payload)
}

fn plain(connection: &GuestConnection, window: u16) -> Vec<u8> {
    Edits::None.finish(tcp(connection, 0x10, window, &[], &[]))
}

fn tcp(
    connection: &GuestConnection,
    flags: u8,
    window: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let segment = Tcp {
        ports: (connection.guest.port(), connection.remote.port()),
        seq: connection.ours,
        ack: connection.theirs,
        flags,
        window,
        options,
        payload,
    };

    packet::ip(
        connection.guest.ip(),
        connection.remote.ip(),
        packet::TCP,
        &segment.bytes(),
    )
}

fn neighbour(v6: bool, edits: &Edits) -> Vec<u8> {
    let (guest, gateway) = (LINK.guest, LINK.gateway);
    if v6 {
        let mut payload = vec![135, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(gateway.v6.octets());
        payload.extend([1, 1].iter().chain(&guest.mac));
        let mut packet = around(gateway.v6.into(), packet::ICMPV6, &payload);
        packet[7] = 255;
        return edits.finish(packet);
    }

    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(guest.mac.iter().chain(&guest.v4.octets()));
    arp.extend([0; 6].iter().chain(&gateway.v4.octets()));
    let mut frame = edits.finish(arp);
    frame[12..14].copy_from_slice(&[8, 6]);

    frame
}
