//! Resets connections of a restored guest that this stack does not know.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::device::GuestDevice;
use super::four_tuple::FourTuple;
use super::frame::{IPV4, IPV6};

const HOP_LIMIT: u8 = 64;

/// Makes the guest reset a connection that it considers open.
///
/// An acknowledgment that fits nothing makes the guest answer with its own state of the connection. The stack does not
/// know the connection and replies to that with a reset. Without this, a program that only reads would wait forever.
pub(super) fn reset_stale(device: &mut GuestDevice, tuple: FourTuple) {
    let FourTuple { guest, remote } = tuple;
    let (from, to) = (ip_address(remote), ip_address(guest));
    if from.version() != to.version() {
        return;
    }

    let checksums = ChecksumCapabilities::default();

    // An acknowledgment with sequence numbers that fit no connection.
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
    let ip = IpRepr::new(from, to, IpProtocol::Tcp, segment.buffer_len(), HOP_LIMIT);
    let ethertype = match guest {
        SocketAddr::V4(_) => IPV4,
        SocketAddr::V6(_) => IPV6,
    };

    device.send(ethertype, ip.buffer_len(), |out| {
        ip.emit(&mut *out, &checksums);
        let rest = &mut out[ip.header_len()..];
        segment.emit(&mut TcpPacket::new_unchecked(rest), &from, &to, &checksums);
    });
}

fn ip_address(of: SocketAddr) -> IpAddress {
    match of.ip() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => v6.into(),
    }
}
