use bytes::BytesMut;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::frame::{self, ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// Bytes for the guest that may wait for being written: more than the largest window of one connection.
/// Past this the stack waits, and nothing is lost.
pub(super) const OUTBOX_BYTES: usize = 1024 * 1024;

/// Our end of the cable: packets that came in, one at a time, and frames that are to go out.
#[derive(Debug)]
pub(super) struct Cable {
    link: LinkAddresses,
    /// The packet that is to be looked at next, without its Ethernet header.
    pub(super) arrived: Option<BytesMut>,
    /// Frames for the guest, as QEMU wants them.
    pub(super) outbox: BytesMut,
}

impl Cable {
    pub(super) fn new(link: LinkAddresses) -> Self {
        Self {
            link,
            arrived: None,
            outbox: BytesMut::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_BYTES
    }

    /// Sends a packet that the stack has not made.
    pub(super) fn send(&mut self, ethertype: [u8; 2], length: usize, fill: impl FnOnce(&mut [u8])) {
        if self.has_room() {
            let header = header(&self.link, ethertype);
            frame::put(&mut self.outbox, &header, length, fill);
        }
    }
}

fn header(link: &LinkAddresses, ethertype: [u8; 2]) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    header[..6].copy_from_slice(&link.guest.mac);
    header[6..12].copy_from_slice(&link.gateway.mac);
    header[12..].copy_from_slice(&ethertype);
    header
}

impl Device for Cable {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Departing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Departing<'_>)> {
        let packet = self.arrived.take()?;
        Some((Arrived(packet), Departing(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Departing<'_>> {
        self.has_room().then_some(Departing(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.link.mtu;
        capabilities
    }
}

pub(super) struct Arrived(BytesMut);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Departing<'a>(&'a mut Cable);

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Cable { link, outbox, .. } = self.0;
        let begin = outbox.len();
        let result = frame::put(outbox, &header(link, IPV4), len, f);
        // Which protocol it is stands in the packet alone.
        let packet = begin + outbox.len().saturating_sub(begin + len);
        if outbox.get(packet).is_some_and(|first| first >> 4 == 6) {
            outbox[packet - 2..packet].copy_from_slice(&IPV6);
        }
        result
    }
}
