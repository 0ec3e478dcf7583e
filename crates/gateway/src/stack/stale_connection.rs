use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::device::Cable;
use super::four_tuple::Tuple;
use super::frame::{IPV4, IPV6};

/// Lets the guest speak of a connection that it believes to be open: it answers an acknowledgment that fits
/// nothing with what it knows, and the stack, which knows of no such connection, resets it then. Without
/// this, a program that waits for something to read would wait for ever.
pub(super) fn provoke(cable: &mut Cable, tuple: Tuple) {
    const HOPS: u8 = 64;
    let checksums = ChecksumCapabilities::default();
    let Tuple { guest, remote } = tuple;
    let segment = TcpRepr {
        src_port: remote.port(),
        dst_port: guest.port(),
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: Some(TcpSeqNumber(0)),
        window_len: u16::MAX,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (address(remote), address(guest));
    if from.version() != to.version() {
        return;
    }
    let ip = IpRepr::new(from, to, IpProtocol::Tcp, segment.buffer_len(), HOPS);
    let ethertype = match guest {
        SocketAddr::V4(_) => IPV4,
        SocketAddr::V6(_) => IPV6,
    };
    cable.send(ethertype, ip.buffer_len(), |out| {
        ip.emit(&mut *out, &checksums);
        let rest = &mut out[ip.header_len()..];
        segment.emit(&mut TcpPacket::new_unchecked(rest), &from, &to, &checksums);
    });
}

fn address(of: SocketAddr) -> IpAddress {
    match of.ip() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => v6.into(),
    }
}
