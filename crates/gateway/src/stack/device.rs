//! The gateway's end of the link, as the stack sees it.

use bytes::BytesMut;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::frame::{self, ETHERNET_BYTES, IPV4, IPV6};
use crate::link::LinkAddresses;

/// Maximum number of bytes that wait for the guest: more than the largest window of one connection. When it is reached
/// the stack pauses, and nothing is lost.
pub(super) const OUTBOX_BYTES: usize = 1024 * 1024;

/// The guest's network device: one incoming packet at a time, and a queue of outgoing frames.
#[derive(Debug)]
pub(super) struct GuestDevice {
    link: LinkAddresses,
    /// The packet to process next, without its Ethernet header.
    pub(super) incoming: Option<BytesMut>,
    /// Frames for the guest, in QEMU's format.
    pub(super) outbox: BytesMut,
}

impl GuestDevice {
    pub(super) fn new(link: LinkAddresses) -> Self {
        Self {
            link,
            incoming: None,
            outbox: BytesMut::new(),
        }
    }

    /// Returns whether the outbox accepts another frame.
    pub(super) fn has_capacity(&self) -> bool {
        self.outbox.len() < OUTBOX_BYTES
    }

    /// Sends a packet that is not the stack's. It is dropped if the outbox is full.
    pub(super) fn send(&mut self, ethertype: [u8; 2], length: usize, fill: impl FnOnce(&mut [u8])) {
        if self.has_capacity() {
            let header = ethernet_header(&self.link, ethertype);
            frame::append(&mut self.outbox, &header, length, fill);
        }
    }
}

fn ethernet_header(link: &LinkAddresses, ethertype: [u8; 2]) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    header[..6].copy_from_slice(&link.guest.mac);
    header[6..12].copy_from_slice(&link.gateway.mac);
    header[12..].copy_from_slice(&ethertype);
    header
}

impl Device for GuestDevice {
    type RxToken<'a> = IncomingPacket;
    type TxToken<'a> = OutgoingPacket<'a>;

    fn receive(&mut self, _: Instant) -> Option<(IncomingPacket, OutgoingPacket<'_>)> {
        let packet = self.incoming.take()?;
        Some((IncomingPacket(packet), OutgoingPacket(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<OutgoingPacket<'_>> {
        self.has_capacity().then_some(OutgoingPacket(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.link.mtu;
        capabilities
    }
}

pub(super) struct IncomingPacket(BytesMut);

impl RxToken for IncomingPacket {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct OutgoingPacket<'a>(&'a mut GuestDevice);

impl TxToken for OutgoingPacket<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let GuestDevice { link, outbox, .. } = self.0;
        let start = outbox.len();
        let result = frame::append(outbox, &ethernet_header(link, IPV4), len, f);

        // Only the packet itself shows its IP version, so the EtherType is corrected afterwards.
        let packet = start + outbox.len().saturating_sub(start + len);
        if outbox.get(packet).is_some_and(|first| first >> 4 == 6) {
            outbox[packet - 2..packet].copy_from_slice(&IPV6);
        }
        result
    }
}
