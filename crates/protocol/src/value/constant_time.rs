use subtle::ConstantTimeEq;

/// Compares two secrets in a time that depends only on the length of `given`.
///
/// A comparison of slices by `subtle` returns early if the lengths differ, which would reveal the length
/// of the secret. So every byte of `given` is compared, with the expected bytes repeated as needed.
#[must_use]
pub fn constant_time_eq(expected: &[u8], given: &[u8]) -> bool {
    let mut equal = expected.len().ct_eq(&given.len());
    for (byte, other) in given.iter().zip(expected.iter().cycle()) {
        equal &= byte.ct_eq(other);
    }
    equal.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_in_full() {
        assert!(constant_time_eq(b"abc", b"abc"));
        for wrong in [&b""[..], b"ab", b"abd", b"abcabc", b"abca", b"xbc"] {
            assert!(!constant_time_eq(b"abc", wrong), "{wrong:?}");
        }
        assert!(!constant_time_eq(b"", b"a"));
    }
}
