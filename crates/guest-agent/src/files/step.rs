use fumehood_protocol::{Limits, WireError};

/// The result of one step of a transfer.
#[derive(Debug)]
pub(super) enum Step {
    /// There is more to do.
    More,
    /// The transfer has been answered and is over.
    Done,
    /// The transfer has failed.
    Failed(WireError),
}

/// The size of the chunks that files are read in, in bytes.
pub(super) fn chunk_bytes(limits: &Limits) -> usize {
    usize::try_from(limits.chunk_bytes).unwrap_or(65_536)
}
