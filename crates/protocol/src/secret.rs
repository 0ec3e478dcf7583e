/// Whether two secrets are the same, in a time that depends on the length of `given` alone.
#[must_use]
pub fn constant_time_eq(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = expected.len() ^ given.len();
    for (at, byte) in given.iter().enumerate() {
        let other = expected
            .get(at % expected.len().max(1))
            .copied()
            .unwrap_or(0);
        difference |= usize::from(byte ^ other);
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_whole() {
        assert!(constant_time_eq(b"abc", b"abc"));
        for wrong in [&b""[..], b"ab", b"abd", b"abcabc", b"abca", b"xbc"] {
            assert!(!constant_time_eq(b"abc", wrong), "{wrong:?}");
        }
        assert!(!constant_time_eq(b"", b"a"));
    }
}
