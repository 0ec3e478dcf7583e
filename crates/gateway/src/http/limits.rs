//! Bounds of the proxy.

use std::time::Duration;

/// Maximum length of a message's head, on either side.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Maximum number of headers of a message, on either side.
pub(super) const MAX_HEADERS: usize = 128;

/// Maximum number of bytes that hyper buffers in each direction: a head and the bytes that follow it in the same read.
pub(super) const BUFFER_BYTES: usize = 2 * MAX_HEAD_BYTES;

/// Deadline for a head, from its first byte to its last.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Deadline for the next request after an answer.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Deadline for a server to start its answer, unless the caller sets another one.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// Deadline for the next byte on an upgraded connection.
pub(super) const UPGRADED_TIMEOUT: Duration = Duration::from_secs(60 * 60);
