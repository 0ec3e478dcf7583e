//! Limits.

use serde::{Deserialize, Serialize};
use thiserror::Error;

const GIB: u64 = 1024 * 1024 * 1024;

/// Maximum number of concurrent connections that a policy may allow. Each costs two buffers and a task on the host.
pub const MAX_CONNECTIONS: u32 = 4096;

/// Limits on how much a guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkLimits {
    /// Concurrent connections; 1 to [`MAX_CONNECTIONS`].
    pub connections: u32,
    /// New connections per second, on average; at least 1.
    pub connections_per_s: u32,
    /// Bytes from the guest, in the sandbox's lifetime.
    pub bytes_up: u64,
    /// Bytes to the guest, in the sandbox's lifetime.
    pub bytes_down: u64,
    /// Bytes per second in both directions together; unlimited if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Lookups of names per second, on average; at least 1.
    pub lookups_per_s: u32,
}

/// The connections are more than any browser or installer opens, and few enough that a guest cannot exhaust the host's
/// descriptors. 10 GiB are a few installations of the largest packages. Nothing in a guest caches DNS answers, and each
/// connection by name makes two lookups: for IPv4 and for IPv6.
impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connections: 128,
            connections_per_s: 200,
            bytes_up: 10 * GIB,
            bytes_down: 10 * GIB,
            bytes_per_s: None,
            lookups_per_s: 500,
        }
    }
}

/// A limit is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// The limit is out of bounds.
    #[error("limits.{name} is {value}; {min} to {max} are allowed")]
    Bounds {
        /// The name of the limit.
        name: &'static str,
        /// The given value.
        value: u64,
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
}

/// Minimum of `bytes_per_s`. If it were lower, a page of text would take longer than clients wait.
pub const MIN_BYTES_PER_S: u64 = 1024;

impl NetworkLimits {
    /// Checks that all limits are within their bounds.
    ///
    /// # Errors
    /// Returns the first limit that is not.
    pub(crate) fn check(&self) -> Result<(), LimitsError> {
        // Each limit with its minimum and maximum.
        let rows = [
            (
                "connections",
                self.connections.into(),
                1,
                MAX_CONNECTIONS.into(),
            ),
            (
                "connections_per_s",
                self.connections_per_s.into(),
                1,
                u32::MAX.into(),
            ),
            (
                "lookups_per_s",
                self.lookups_per_s.into(),
                1,
                u32::MAX.into(),
            ),
            (
                "bytes_per_s",
                self.bytes_per_s.unwrap_or(u64::MAX),
                MIN_BYTES_PER_S,
                u64::MAX,
            ),
        ];

        match rows
            .into_iter()
            .find(|(_, value, min, max)| !(min..=max).contains(&value))
        {
            None => Ok(()),
            Some((name, value, min, max)) => Err(LimitsError::Bounds {
                name,
                value,
                min,
                max,
            }),
        }
    }
}
