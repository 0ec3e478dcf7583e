//! What outlives the server: records of runs and sandboxes, and idempotency keys, in one SQLite file.
//!
//! What lives only in memory is in `state`.

pub(crate) mod database;
pub(crate) mod idempotency;
pub(crate) mod records;
