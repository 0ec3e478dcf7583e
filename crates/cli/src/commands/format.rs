//! Formatting that several listings share.

use std::time::SystemTime;

/// Bytes in a MiB.
pub(super) const MIB: u64 = 1024 * 1024;

/// The number of hexadecimal digits that listings show of a key or digest.
const SHORT_HASH_DIGITS: usize = 12;

/// Returns the first digits of a hexadecimal key or digest.
pub(super) fn short_hash(hash: &str) -> &str {
    &hash[..SHORT_HASH_DIGITS.min(hash.len())]
}

/// Returns how long ago `time` was, for people. A time in the future counts as now.
pub(super) fn format_age(time: SystemTime) -> String {
    let age = SystemTime::now().duration_since(time).unwrap_or_default();
    let minutes = age.as_secs() / 60;

    match minutes {
        0 => "just now".to_string(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}
