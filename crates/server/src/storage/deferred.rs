//! Changes of records that could not be written, because the disk was full. They are written once that is possible.

use std::collections::HashMap;
use std::sync::Mutex;

use rusqlite::{Connection, params};

use super::table::Table;
use crate::sync::lock;

/// A change of the record of a run or a sandbox.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) table: Table,
    pub(super) id: String,
    pub(super) state: String,
    /// The new record, as JSON.
    pub(super) json: String,
    /// For a sandbox: the data with which a later server resumes it, as JSON; none = as before.
    pub(super) resume: Option<String>,
}

impl Change {
    pub(super) fn apply(&self, connection: &Connection) -> rusqlite::Result<()> {
        let table = self.table.name();
        let update = format!("UPDATE {table} SET state = ?, view = ? WHERE id = ?");
        connection
            .prepare_cached(&update)?
            .execute(params![self.state, self.json, self.id])?;

        if let Some(resume) = &self.resume {
            connection
                .prepare_cached("UPDATE sandboxes SET resume = ? WHERE id = ?")?
                .execute(params![resume, self.id])?;
        }
        Ok(())
    }
}

/// The changes that are not written yet, by the ids of their records.
///
/// They need no separate bound: only records that exist can change, and those of active runs and sandboxes are bounded.
#[derive(Debug, Default)]
pub(super) struct Deferred(Mutex<HashMap<String, Change>>);

impl Deferred {
    /// Keeps a change, in place of an earlier one of the same record.
    pub(super) fn add(&self, change: Change) {
        lock(&self.0).insert(change.id.clone(), change);
    }

    /// Returns the JSON that a record will have.
    pub(super) fn json(&self, id: &str) -> Option<String> {
        let changes = lock(&self.0);
        changes.get(id).map(|change| change.json.clone())
    }

    /// Writes all changes, in one transaction.
    ///
    /// # Errors
    /// The changes are kept if they cannot be written.
    pub(super) fn flush(&self, connection: &Connection) -> rusqlite::Result<()> {
        // Readers see a change here or in the database: it is removed after it was written.
        let mut changes = lock(&self.0);
        if changes.is_empty() {
            return Ok(());
        }

        let transaction = connection.unchecked_transaction()?;
        for change in changes.values() {
            change.apply(&transaction)?;
        }
        transaction.commit()?;

        tracing::info!(
            changes = changes.len(),
            "wrote what a full disk had delayed"
        );
        changes.clear();

        Ok(())
    }
}
