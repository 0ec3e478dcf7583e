//! The state that outlives the server: records of runs and sandboxes, and idempotency keys, in one SQLite file.
//!
//! What lives only in memory belongs in `state`. When records are deleted is decided in `service::retention`.

pub(crate) mod database;
mod deferred;
pub(crate) mod idempotency;
mod quota;
pub(crate) mod records;
pub(crate) mod resume;
pub(crate) mod saved_checkpoints;
mod reserve;
mod schema;
mod table;

#[cfg(test)]
pub(crate) mod full_disk_tests;
