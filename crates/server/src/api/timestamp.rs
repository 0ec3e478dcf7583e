//! The format of times in JSON.

use jiff::Timestamp;

/// Formats a time in UTC with milliseconds, such as `2026-01-01T00:00:00.000Z`.
pub(crate) fn format_timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_milliseconds_and_a_zone() {
        let time = Timestamp::from_millisecond(1_767_225_600_007).unwrap();
        assert_eq!(format_timestamp(time), "2026-01-01T00:00:00.007Z");
    }
}
