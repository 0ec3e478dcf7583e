//! The state that outlives the server: records of runs and sandboxes, and idempotency keys, in one SQLite file.
//!
//! What lives only in memory belongs in `state`. When records are deleted is decided in `service::retention`.

pub(crate) mod database;
pub(crate) mod idempotency;
pub(crate) mod records;
