//! Ethernet frames as QEMU's `stream` network backend sends them.

use bytes::{Buf, BufMut, BytesMut};

/// Length of the prefix of each frame, in bytes: the frame's length in big-endian order.
pub(super) const LENGTH_BYTES: usize = 4;

/// Length of an Ethernet header, in bytes.
pub(super) const ETHERNET_BYTES: usize = 14;

/// The EtherType of IPv4.
pub(super) const IPV4: [u8; 2] = [0x08, 0x00];

/// The EtherType of IPv6.
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];

/// The EtherType of ARP.
pub(super) const ARP: [u8; 2] = [0x08, 0x06];

/// A frame's length is zero or above the link's maximum. The sender is not QEMU, or QEMU is compromised; the link is
/// closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid frame of {0} bytes; the link is closed")]
pub(crate) struct InvalidFrameLength(u32);

/// Takes the next complete frame from the bytes that were read; `None` if it is incomplete.
pub(super) fn take_next(
    read: &mut BytesMut,
    max_bytes: usize,
) -> Result<Option<BytesMut>, InvalidFrameLength> {
    let Some(head) = read.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes > max_bytes || bytes == 0 {
        return Err(InvalidFrameLength(length));
    }
    if read.len() < LENGTH_BYTES + bytes {
        return Ok(None);
    }

    read.advance(LENGTH_BYTES);
    Ok(Some(read.split_to(bytes)))
}

/// Appends a frame whose payload `fill` writes.
pub(super) fn append<R>(
    out: &mut BytesMut,
    header: &[u8; ETHERNET_BYTES],
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> R,
) -> R {
    let frame_length = u32::try_from(ETHERNET_BYTES + length).unwrap_or(u32::MAX);
    out.put_u32(frame_length);
    out.put_slice(header);
    let start = out.len();
    out.put_bytes(0, length);
    fill(&mut out[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_returned_whole_and_in_order() {
        let mut out = BytesMut::new();
        append(&mut out, &[1; 14], 3, |body| body.fill(7));
        append(&mut out, &[2; 14], 0, |_| ());
        let mut read = BytesMut::new();
        let mut found = Vec::new();
        for byte in out {
            read.put_u8(byte);
            found.extend(take_next(&mut read, 17).unwrap());
        }
        let expected: [&[u8]; 2] = [&[&[1_u8; 14][..], &[7; 3]].concat(), &[2; 14]];
        assert_eq!(found, expected);
        assert!(read.is_empty());
    }

    #[test]
    fn a_length_above_the_limit_is_rejected_before_the_frame_arrives() {
        let mut read = BytesMut::from(&[0, 0, 0, 18][..]);
        assert_eq!(take_next(&mut read, 18), Ok(None));
        assert_eq!(take_next(&mut read, 17), Err(InvalidFrameLength(18)));
        let mut read = BytesMut::from(&[0, 0, 0, 0][..]);
        assert_eq!(take_next(&mut read, 17), Err(InvalidFrameLength(0)));
    }
}
