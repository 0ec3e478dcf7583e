//! Times as JSON has them.

use jiff::Timestamp;

/// A time as JSON has it: `2026-01-01T00:00:00.000Z`.
pub(crate) fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_milliseconds_and_a_zone() {
        let time = Timestamp::from_millisecond(1_767_225_600_007).unwrap();
        assert_eq!(written(time), "2026-01-01T00:00:00.007Z");
    }
}
