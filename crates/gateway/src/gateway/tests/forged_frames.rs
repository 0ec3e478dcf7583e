//! Frames that no kernel lets its programs send. They reach no host, and the gateway continues to work.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpAddress, IpProtocol, IpRepr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::*;

const MARK: &[u8] = b"one byte for a canary";

/// An allowed host, and a canary at the same port that is not allowed.
struct Hosts {
    allowed: SocketAddr,
    canary: SocketAddr,
    arrived: Arc<AtomicUsize>,
}

impl Hosts {
    async fn listen() -> Self {
        let allowed = start_uppercase_server().await;
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

    /// Asserts that the gateway still works, and that nothing reached the canary.
    async fn assert_unharmed(&self, guest: &mut Guest) {
        let socket = guest.connect(self.allowed).await.unwrap();
        assert_eq!(guest.exchange(socket, b"still").await.unwrap(), b"STILL");
        assert_eq!(self.arrived.load(Ordering::Relaxed), 0);
    }
}

fn ethernet(from: [u8; 6], to: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind, packet].concat()
}

/// A frame as the guest's kernel builds it.
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

/// An ARP message in which the guest claims an address, or requests the hardware address of another.
fn arp(claimed: Ipv4Addr, operation: ArpOperation, target: Ipv4Addr) -> Vec<u8> {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(LINK.guest.mac),
        source_protocol_addr: claimed,
        target_hardware_addr: EthernetAddress(LINK.gateway.mac),
        target_protocol_addr: target,
    };

    let mut out = vec![0; message.buffer_len()];
    message.emit(&mut ArpPacket::new_unchecked(&mut out));

    ethernet(LINK.guest.mac, [0xff; 6], [8, 6], &out)
}

/// Changes bytes of an IPv4 header and corrects its checksum.
fn with_header_bytes(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
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

/// Forged frames, with the code of the event for each.
fn forged(hosts: &Hosts) -> Vec<(&'static str, Vec<u8>)> {
    let (guest, gateway) = (LINK.guest.v4, LINK.gateway.v4);
    let (ours, theirs) = (LINK.guest.mac, LINK.gateway.mac);
    let stranger = Ipv4Addr::new(203, 0, 113, 200);
    let open = syn(guest, hosts.canary);
    let Ok(canary) = hosts.canary.ip().to_string().parse::<Ipv4Addr>() else {
        unreachable!("it is an IPv4 address")
    };

    let own = [2, 0, 0, 0, 0, 9];

    vec![
        // The destination hardware address does not matter.
        ("special_address", frame(&open)),
        (
            "special_address",
            ethernet(
                ours,
                [0xff; 6],
                [8, 0],
                &syn_of(41_001, guest, hosts.canary),
            ),
        ),
        (
            "special_address",
            ethernet(ours, own, [8, 0], &syn_of(41_002, guest, hosts.canary)),
        ),
        ("malformed", ethernet(own, theirs, [8, 0], &open)),
        ("malformed", ethernet(theirs, theirs, [8, 0], &open)),
        // Other frame types: a tagged one, one with a length, and IPv4 with the EtherType of IPv6.
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
        // Foreign source addresses, also to the allowed host.
        ("source_address", frame(&syn(stranger, hosts.canary))),
        ("source_address", frame(&syn(stranger, hosts.allowed))),
        ("source_address", frame(&syn(gateway, hosts.allowed))),
        ("source_address", frame(&syn(canary, hosts.allowed))),
        ("source_address", frame(&datagram(stranger, hosts.canary))),
        ("protocol", frame(&syn(Ipv4Addr::UNSPECIFIED, hosts.canary))),
        ("datagram", frame(&datagram(guest, hosts.canary))),
        ("datagram", frame(&datagram(guest, hosts.allowed))),
        // Fragments: the first and the last.
        (
            "fragment",
            frame(&with_header_bytes(open.clone(), 6, &[0x20, 0])),
        ),
        (
            "fragment",
            frame(&with_header_bytes(open.clone(), 6, &[0, 1])),
        ),
        // Wrong lengths.
        (
            "malformed",
            frame(&with_header_bytes(open.clone(), 2, &[0xff, 0xff])),
        ),
        (
            "malformed",
            frame(&with_header_bytes(open.clone(), 2, &[0, 19])),
        ),
        (
            "malformed",
            frame(&with_header_bytes(open.clone(), 0, &[0x4f])),
        ),
        ("malformed", frame(&open[..12])),
        ("malformed", frame(&[])),
        // A guest that claims another address.
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
async fn forged_frames_reach_no_host_and_are_reported() {
    let hosts = Hosts::listen().await;
    let (mut guest, gateway) = start(policy(&[hosts.allowed.to_string()]), vec![]);
    let mut events = gateway.events();

    for (n, (code, frame)) in forged(&hosts).into_iter().enumerate() {
        guest.send_raw(&frame);
        let event = guest.until("an event", |_| events.try_recv().ok()).await;
        assert_eq!((event.code, event.allowed), (code, false), "{n}");
    }

    // No other hardware address is announced.
    guest.send_raw(&arp(
        LINK.guest.v4,
        ArpOperation::Request,
        [127, 0, 0, 2].into(),
    ));
    hosts.assert_unharmed(&mut guest).await;
    assert!(events.try_recv().is_ok_and(|event| event.allowed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_changes_to_frames_reach_no_host() {
    let hosts = Hosts::listen().await;
    let (mut guest, _gateway) = start(policy(&[hosts.allowed.to_string()]), vec![]);
    let mut seeds: Vec<Vec<u8>> = forged(&hosts).into_iter().map(|(_, frame)| frame).collect();
    seeds.push(frame(&syn(LINK.guest.v4, hosts.allowed)));
    // A linear congruential generator by Knuth: the same sequence in every run.
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

    hosts.assert_unharmed(&mut guest).await;
}
