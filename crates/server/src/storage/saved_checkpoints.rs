//! The records of durable checkpoints.

use rusqlite::{OptionalExtension, Row, params};

use super::database::{Store, StoreError};
use super::resume::NetworkRecord;
use crate::api::responses::CheckpointResponse;
use crate::owner::Owner;

/// A durable checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct SavedCheckpoint {
    pub(crate) owner: Owner,
    /// The id of its state in the engine's store.
    pub(crate) state: String,
    pub(crate) response: CheckpointResponse,
    pub(crate) network: Option<NetworkRecord>,
    /// A Unix time in milliseconds.
    pub(crate) created_ms: i64,
}

const COLUMNS: &str = "owner, state, view, network, created_ms";

/// Records a checkpoint. `false`: its owner has another one with this name.
pub(crate) fn insert(store: &Store, checkpoint: &SavedCheckpoint) -> Result<bool, StoreError> {
    let response = &checkpoint.response;
    let view = serde_json::to_string(response).unwrap_or_default();
    let network = checkpoint.network.as_ref();
    let network = network.and_then(|network| serde_json::to_string(network).ok());
    let bytes = i64::try_from(response.bytes).unwrap_or(i64::MAX);

    store.write(|c| {
        let insert = "INSERT INTO checkpoints (id, owner, name, created_ms, state, bytes, view, network)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, name) WHERE name IS NOT NULL DO NOTHING";
        let values = params![
            response.id,
            checkpoint.owner.as_str(),
            response.name,
            checkpoint.created_ms,
            checkpoint.state,
            bytes,
            view,
            network
        ];
        Ok(c.prepare_cached(insert)?.execute(values)? == 1)
    })
}

/// Returns the checkpoint of this owner with this id or name.
pub(crate) fn find(
    store: &Store,
    owner: &Owner,
    id: &str,
) -> Result<Option<SavedCheckpoint>, StoreError> {
    store.read(|c| {
        let select = format!(
            "SELECT {COLUMNS} FROM checkpoints WHERE owner = ?1 AND (id = ?2 OR name = ?2)"
        );
        let row = c
            .prepare_cached(&select)?
            .query_row(params![owner.as_str(), id], read_row);
        Ok(row.optional()?.flatten())
    })
}

/// Returns the checkpoints of all owners, the newest first.
pub(crate) fn list(store: &Store) -> Result<Vec<SavedCheckpoint>, StoreError> {
    store.read(|c| {
        let select = format!("SELECT {COLUMNS} FROM checkpoints ORDER BY id DESC");
        let mut select = c.prepare_cached(&select)?;
        let rows = select.query_map([], read_row)?;
        rows.filter_map(Result::transpose).collect()
    })
}

/// Deletes the record of a checkpoint.
pub(crate) fn delete(store: &Store, id: &str) -> Result<(), StoreError> {
    store.write_essential(|c| c.execute("DELETE FROM checkpoints WHERE id = ?", [id]))?;
    Ok(())
}

/// Returns the number and the bytes of an owner's checkpoints.
pub(crate) fn usage(store: &Store, owner: &Owner) -> Result<(u64, u64), StoreError> {
    store.read(|c| {
        let select = "SELECT count(*), coalesce(sum(bytes), 0) FROM checkpoints WHERE owner = ?";
        c.query_row(select, [owner.as_str()], |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
            Ok((number(0)?, number(1)?))
        })
    })
}

/// Reads a row. One that another version wrote in a form that this one does not know is left out, and logged.
fn read_row(row: &Row<'_>) -> rusqlite::Result<Option<SavedCheckpoint>> {
    let (owner, view): (String, String) = (row.get(0)?, row.get(2)?);
    let network: Option<String> = row.get(3)?;

    let response = match serde_json::from_str(&view) {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "cannot read the record of a checkpoint; it is left out");
            return Ok(None);
        }
    };

    Ok(Some(SavedCheckpoint {
        owner: Owner::from_record(&owner),
        state: row.get(1)?,
        response,
        network: network.and_then(|json| serde_json::from_str(&json).ok()),
        created_ms: row.get(4)?,
    }))
}
