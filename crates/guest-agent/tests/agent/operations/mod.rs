//! Operations: input, output, ends, idempotency keys and cleanup.

mod cleanup;
mod completion;
mod concurrency;
mod idempotency;
pub(crate) mod input;
mod output;
pub(crate) mod processes;
