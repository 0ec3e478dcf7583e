//! Ids, and the random bytes of keys.

use jiff::Timestamp;

/// The digits of ids. No two look alike, and they sort by their values, so that ids sort by time.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The digits of an id: 128 bits at five bits each.
const ID_DIGITS: usize = 26;

/// Creates an id that cannot be guessed: the time in milliseconds, then 80 random bits.
///
/// # Errors
/// If the operating system provides no random numbers.
pub(crate) fn new_id(prefix: &str) -> Result<String, getrandom::Error> {
    let ms = u128::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    let random = u128::from_be_bytes(random_bytes()?) & ((1 << 80) - 1);
    let value = (ms << 80) | random;

    let mut id = String::with_capacity(prefix.len() + 1 + ID_DIGITS);
    id.push_str(prefix);
    id.push('_');

    for place in (0..ID_DIGITS).rev() {
        let digit = usize::try_from((value >> (place * 5)) & 31).unwrap_or_default();
        id.push(char::from(DIGITS[digit]));
    }

    Ok(id)
}

/// Returns `N` random bytes that are fit for secrets.
///
/// # Errors
/// If the operating system provides no random numbers.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let first = new_id("run").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = new_id("run").unwrap();
        assert!(first < second && first.len() == 30, "{first} {second}");
    }
}
