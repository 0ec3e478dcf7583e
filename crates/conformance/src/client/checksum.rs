//! CRC-32C, bit by bit: independent of the tables that agents use.

/// The CRC-32C of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_more(0, bytes)
}

/// The CRC-32C of bytes that follow others, bit by bit.
pub(super) fn crc32c_more(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * low);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32c_of_the_known_text() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
