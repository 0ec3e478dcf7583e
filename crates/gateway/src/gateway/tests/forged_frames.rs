//! Frames that no kernel lets its programs send: nobody arrives by them, and the gateway goes on.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpAddress, IpProtocol, IpRepr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::*;

const MARK: &[u8] = b"one byte for a canary";

/// Somebody who may be reached, and somebody at the same port who may not.
struct Two {
    allowed: SocketAddr,
    canary: SocketAddr,
    arrived: Arc<AtomicUsize>,
}

impl Two {
    async fn listen() -> Self {
        let allowed = shouting().await;
        let canary = SocketAddr::from(([127, 0, 0, 2], allowed.port()));
        let arrived = Arc::new(AtomicUsize::new(0));
        let (listener, count) = (TcpListener::bind(canary).await.unwrap(), arrived.clone());
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });

        let (socket, count) = (UdpSocket::bind(canary).await.unwrap(), arrived.clone());
        tokio::spawn(async move {
            while socket.recv_from(&mut [0; 64]).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });

        Self {
            allowed,
            canary,
            arrived,
        }
    }

    /// The gateway still does what it should, and nobody was where nobody may be.
    async fn assert_well(&self, guest: &mut Guest) {
        let socket = guest.connect(self.allowed).await.unwrap();
        assert_eq!(guest.exchange(socket, b"still").await.unwrap(), b"STILL");
        assert_eq!(self.arrived.load(Ordering::Relaxed), 0);
    }
}

fn ethernet(from: [u8; 6], to: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind, packet].concat()
}

/// A frame as the guest's kernel makes it.
fn frame(packet: &[u8]) -> Vec<u8> {
    ethernet(LINK.guest.mac, LINK.gateway.mac, [8, 0], packet)
}

/// The first packet of a connection, with data in it.
fn syn(from: Ipv4Addr, to: SocketAddr) -> Vec<u8> {
    syn_of(41_000, from, to)
}

fn syn_of(src_port: u16, from: Ipv4Addr, to: SocketAddr) -> Vec<u8> {
    let segment = TcpRepr {
        src_port,
        dst_port: to.port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1),
        ack_number: None,
        window_len: u16::MAX,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: MARK,
    };

    let checksums = ChecksumCapabilities::default();
    let (from, to) = (from.into(), IpAddress::from(to.ip()));

    packet(from, to, IpProtocol::Tcp, segment.buffer_len(), |out| {
        segment.emit(&mut TcpPacket::new_unchecked(out), &from, &to, &checksums);
    })
}

fn datagram(from: Ipv4Addr, to: SocketAddr) -> Vec<u8> {
    let head = UdpRepr {
        src_port: 41_000,
        dst_port: to.port(),
    };

    let checksums = ChecksumCapabilities::default();
    let length = head.header_len() + MARK.len();
    let (from, to) = (from.into(), IpAddress::from(to.ip()));

    packet(from, to, IpProtocol::Udp, length, |out| {
        let out = &mut UdpPacket::new_unchecked(out);
        let fill = |payload: &mut [u8]| payload.copy_from_slice(MARK);
        head.emit(out, &from, &to, MARK.len(), fill, &checksums);
    })
}

fn packet(
    from: IpAddress,
    to: IpAddress,
    protocol: IpProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip = IpRepr::new(from, to, protocol, length, 64);
    let mut out = vec![0; ip.buffer_len()];
    ip.emit(&mut out, &ChecksumCapabilities::default());
    fill(&mut out[ip.header_len()..]);
    out
}

/// A word of ARP, by which the guest says that it has this address, or asks who has the canary's.
fn arp(claimed: Ipv4Addr, operation: ArpOperation, target: Ipv4Addr) -> Vec<u8> {
    let word = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(LINK.guest.mac),
        source_protocol_addr: claimed,
        target_hardware_addr: EthernetAddress(LINK.gateway.mac),
        target_protocol_addr: target,
    };

    let mut out = vec![0; word.buffer_len()];
    word.emit(&mut ArpPacket::new_unchecked(&mut out));

    ethernet(LINK.guest.mac, [0xff; 6], [8, 6], &out)
}

/// Bytes of IPv4's header, changed at a place, with the right sum.
fn changed(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet[10..12].fill(0);
    let words = packet[..20].chunks_exact(2);
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();

    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// What is forged, with what is told of it.
fn forged(two: &Two) -> Vec<(&'static str, Vec<u8>)> {
    let (guest, gateway) = (LINK.guest.v4, LINK.gateway.v4);
    let (ours, theirs) = (LINK.guest.mac, LINK.gateway.mac);
    let stranger = Ipv4Addr::new(203, 0, 113, 200);
    let open = syn(guest, two.canary);
    let Ok(canary) = two.canary.ip().to_string().parse::<Ipv4Addr>() else {
        unreachable!("it is of IPv4")
    };

    let own = [2, 0, 0, 0, 0, 9];

    vec![
        // Whatever hardware it says that it is for, the answer is the same.
        ("special_address", frame(&open)),
        (
            "special_address",
            ethernet(ours, [0xff; 6], [8, 0], &syn_of(41_001, guest, two.canary)),
        ),
        (
            "special_address",
            ethernet(ours, own, [8, 0], &syn_of(41_002, guest, two.canary)),
        ),
        ("malformed", ethernet(own, theirs, [8, 0], &open)),
        ("malformed", ethernet(theirs, theirs, [8, 0], &open)),
        // In a frame of another kind: a tagged one, one with a length, and IPv4 in the name of IPv6.
        (
            "malformed",
            ethernet(
                ours,
                theirs,
                [0x81, 0],
                &[&[0, 1, 8, 0][..], &open].concat(),
            ),
        ),
        ("malformed", ethernet(ours, theirs, [0, 60], &open)),
        ("malformed", ethernet(ours, theirs, [0x86, 0xdd], &open)),
        (
            "malformed",
            ethernet(ours, theirs, [8, 0], &[&[0x65][..], &open[1..]].concat()),
        ),
        // From others: also to those that may be reached.
        ("source_address", frame(&syn(stranger, two.canary))),
        ("source_address", frame(&syn(stranger, two.allowed))),
        ("source_address", frame(&syn(gateway, two.allowed))),
        ("source_address", frame(&syn(canary, two.allowed))),
        ("source_address", frame(&datagram(stranger, two.canary))),
        ("protocol", frame(&syn(Ipv4Addr::UNSPECIFIED, two.canary))),
        ("datagram", frame(&datagram(guest, two.canary))),
        ("datagram", frame(&datagram(guest, two.allowed))),
        // In parts, the first and the last.
        ("fragment", frame(&changed(open.clone(), 6, &[0x20, 0]))),
        ("fragment", frame(&changed(open.clone(), 6, &[0, 1]))),
        // Longer and shorter than they say.
        ("malformed", frame(&changed(open.clone(), 2, &[0xff, 0xff]))),
        ("malformed", frame(&changed(open.clone(), 2, &[0, 19]))),
        ("malformed", frame(&changed(open.clone(), 0, &[0x4f]))),
        ("malformed", frame(&open[..12])),
        ("malformed", frame(&[])),
        // A neighbour that claims to be another.
        ("source_address", arp(gateway, ArpOperation::Reply, guest)),
        (
            "source_address",
            arp(canary, ArpOperation::Request, gateway),
        ),
        (
            "source_address",
            arp(stranger, ArpOperation::Reply, gateway),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_arrives_by_what_is_forged_and_it_is_told() {
    let two = Two::listen().await;
    let (mut guest, gateway) = start(policy(&[two.allowed.to_string()]), vec![]);
    let mut events = gateway.events();

    for (n, (code, frame)) in forged(&two).into_iter().enumerate() {
        guest.send_raw(&frame);
        let event = guest.until("an event", |_| events.try_recv().ok()).await;
        assert_eq!((event.code, event.allowed), (code, false), "{n}");
    }

    // Nobody else's hardware address is told.
    guest.send_raw(&arp(
        LINK.guest.v4,
        ArpOperation::Request,
        [127, 0, 0, 2].into(),
    ));
    two.assert_well(&mut guest).await;
    assert!(events.try_recv().is_ok_and(|event| event.allowed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_arrives_by_chance() {
    let two = Two::listen().await;
    let (mut guest, _gateway) = start(policy(&[two.allowed.to_string()]), vec![]);
    let mut seeds: Vec<Vec<u8>> = forged(&two).into_iter().map(|(_, frame)| frame).collect();
    seeds.push(frame(&syn(LINK.guest.v4, two.allowed)));
    // The same at every run: Knuth's numbers for a sequence that looks like chance.
    let mut state = 4711_u64;
    let mut chance = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };

    for _ in 0..3000 {
        let mut frame = seeds[chance(seeds.len())].clone();
        for _ in 0..=chance(4) {
            let at = chance(frame.len());
            frame[at] = chance(256) as u8;
        }

        frame.truncate(frame.len() - chance(8) * chance(2));
        guest.send_raw(&frame);
    }

    two.assert_well(&mut guest).await;
}
