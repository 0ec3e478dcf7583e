use std::time::Duration;

/// Bytes of a message's head, on either side.
pub(super) const HEAD_BYTES: usize = 64 * 1024;

/// Headers of a message, on either side.
pub(super) const HEADERS: usize = 128;

/// Bytes that hyper holds of a connection, in each direction: a head and what came with it.
pub(super) const BUFFER_BYTES: usize = 2 * HEAD_BYTES;

/// Time from a head's first byte to its last.
pub(super) const HEAD: Duration = Duration::from_secs(30);

/// Time from one answer to the next request.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Time in which a server must begin to answer, unless the caller says otherwise.
pub(crate) const ANSWER: Duration = Duration::from_secs(300);

/// Time without a byte after which an upgraded connection is given up.
pub(super) const UPGRADED: Duration = Duration::from_secs(60 * 60);
