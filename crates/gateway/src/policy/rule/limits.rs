use serde::{Deserialize, Serialize};
use thiserror::Error;

const GIB: u64 = 1024 * 1024 * 1024;

/// Connections at once that a policy may allow at most; each costs two buffers and a task on the host.
pub const MAX_CONNECTIONS: u32 = 4096;

/// How much a guest may use of what its policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkLimits {
    /// Connections at once; 1 to [`MAX_CONNECTIONS`].
    pub connections: u32,
    /// New connections in a second, on average; at least 1.
    pub connections_per_s: u32,
    /// Bytes from the guest, in the sandbox's life.
    pub bytes_up: u64,
    /// Bytes to the guest, in the sandbox's life.
    pub bytes_down: u64,
    /// Bytes in a second, both ways together; none: as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Names looked up in a second, on average; at least 1.
    pub lookups_per_s: u32,
}

/// More than the widest browser or installer opens, and few enough that a guest cannot use up the host's
/// descriptors; 10 GiB are a few installations of the largest packages.
/// Nothing in a guest keeps answers, and each connection by name asks twice: for IPv4 and for IPv6.
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

/// A limit that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// Zero, or past what is possible.
    #[error("limits.{name} is {value}; {least} to {most} are allowed")]
    Bounds {
        /// Which.
        name: &'static str,
        /// What was given.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
}

/// What a second's limit may be at least, in bytes; slower, and a page of text takes longer than clients wait.
pub const MIN_BYTES_PER_S: u64 = 1024;

impl NetworkLimits {
    /// # Errors
    /// A limit is out of its bounds; the first such.
    pub(crate) fn check(&self) -> Result<(), LimitsError> {
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
            .find(|(_, value, least, most)| !(least..=most).contains(&value))
        {
            None => Ok(()),
            Some((name, value, least, most)) => Err(LimitsError::Bounds {
                name,
                value,
                least,
                most,
            }),
        }
    }
}
