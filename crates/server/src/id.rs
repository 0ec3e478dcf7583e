//! Ids, and the random bytes in them.

use jiff::Timestamp;

/// Letters of ids: no two that look alike, and in the order of their values, so that ids sort by time.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// An id that nobody guesses: the time in milliseconds, then 80 random bits.
///
/// # Errors
/// This host gives no randomness.
pub(crate) fn fresh_id(prefix: &str) -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    let ms = u128::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    let random = u128::from_be_bytes(bytes) & ((1 << 80) - 1);
    let value = (ms << 80) | random;
    let mut id = String::with_capacity(prefix.len() + 27);
    id.push_str(prefix);
    id.push('_');
    for place in (0..26).rev() {
        let letter = usize::try_from((value >> (place * 5)) & 31).unwrap_or_default();
        id.push(char::from(LETTERS[letter]));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let first = fresh_id("run").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = fresh_id("run").unwrap();
        assert!(first < second && first.len() == 30, "{first} {second}");
    }
}
