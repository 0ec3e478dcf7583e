use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// Whom runs and sandboxes belong to: a key, or this user's own processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<str>);

const LOCAL: &str = "local";

impl Owner {
    /// This user's own processes, by the Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self(LOCAL.into())
    }

    /// A key, by its id.
    pub(crate) fn key(id: &str) -> Self {
        Self(id.into())
    }

    /// Whether it is this user's own processes.
    #[must_use]
    pub fn is_local(&self) -> bool {
        &*self.0 == LOCAL
    }

    /// Its name in the store and in logs; nothing secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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

/// A time as JSON has it: `2026-01-01T00:00:00.000Z`.
pub(crate) fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
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
        let time = Timestamp::from_millisecond(1_767_225_600_007).unwrap();
        assert_eq!(written(time), "2026-01-01T00:00:00.007Z");
    }
}
