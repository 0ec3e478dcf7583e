use bytes::{Buf, BufMut, BytesMut};

/// QEMU's frames on a stream: the length in four bytes, the most significant first, then the frame.
pub(super) const LENGTH_BYTES: usize = 4;

/// Length of an Ethernet header, in bytes.
pub(super) const ETHERNET_BYTES: usize = 14;

/// What an Ethernet frame holds.
pub(super) const IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ARP: [u8; 2] = [0x08, 0x06];

/// A frame that is longer than the link lets any be: QEMU, or what speaks in its place, is not to be
/// listened to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, which is no frame of this link; it is closed")]
pub(crate) struct NoFrame(u32);

/// Takes the next whole frame from what has been read.
pub(super) fn next(read: &mut BytesMut, most: usize) -> Result<Option<BytesMut>, NoFrame> {
    let Some(head) = read.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes > most || bytes == 0 {
        return Err(NoFrame(length));
    }
    if read.len() < LENGTH_BYTES + bytes {
        return Ok(None);
    }
    read.advance(LENGTH_BYTES);
    Ok(Some(read.split_to(bytes)))
}

/// Adds a frame around what `fill` writes.
pub(super) fn put<R>(
    out: &mut BytesMut,
    header: &[u8; ETHERNET_BYTES],
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> R,
) -> R {
    let whole = u32::try_from(ETHERNET_BYTES + length).unwrap_or(u32::MAX);
    out.put_u32(whole);
    out.put_slice(header);
    let begin = out.len();
    out.put_bytes(0, length);
    fill(&mut out[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole_and_in_order() {
        let mut out = BytesMut::new();
        put(&mut out, &[1; 14], 3, |body| body.fill(7));
        put(&mut out, &[2; 14], 0, |_| ());
        let mut read = BytesMut::new();
        let mut found = Vec::new();
        for byte in out {
            read.put_u8(byte);
            found.extend(next(&mut read, 17).unwrap());
        }
        let expected: [&[u8]; 2] = [&[&[1_u8; 14][..], &[7; 3]].concat(), &[2; 14]];
        assert_eq!(found, expected);
        assert!(read.is_empty());
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_anything_is_waited_for() {
        let mut read = BytesMut::from(&[0, 0, 0, 18][..]);
        assert_eq!(next(&mut read, 18), Ok(None));
        assert_eq!(next(&mut read, 17), Err(NoFrame(18)));
        let mut read = BytesMut::from(&[0, 0, 0, 0][..]);
        assert_eq!(next(&mut read, 17), Err(NoFrame(0)));
    }
}
