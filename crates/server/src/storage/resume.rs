//! The data with which a later server resumes a sandbox.

use fumehood_engine::policy::Document;
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError};
use crate::api::requests::NetworkRequest;
use crate::api::timeouts::Timeouts;

/// The data with which a later server resumes a sandbox, beside its public description.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ResumeRecord {
    pub(crate) timeouts: Timeouts,
    pub(crate) network: Option<NetworkRecord>,
    /// The exposed ports, such as `0:8080`.
    #[serde(default)]
    pub(crate) ports: Vec<String>,
    /// The state of a paused sandbox, or the last checkpoint of a running one.
    #[serde(default)]
    pub(crate) saved: Option<SavedRecord>,
}

#[cfg(test)]
impl ResumeRecord {
    /// Creates that of a running sandbox.
    pub(crate) fn new_running() -> Self {
        Self {
            timeouts: Timeouts::DEFAULT,
            network: None,
            ports: Vec::new(),
            saved: None,
        }
    }
}

/// A state on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedRecord {
    pub(crate) state: String,
    /// A Unix time in milliseconds.
    pub(crate) saved_at_ms: i64,
    pub(crate) bytes: u64,
    /// How long the sandbox had been running.
    pub(crate) ran_ms: u64,
    /// Whether the sandbox has continued since.
    pub(crate) is_checkpoint: bool,
}

/// The network of a sandbox, without the values of secrets and without ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    policy: Document,
    is_from_operator: bool,
}

impl From<&NetworkRequest> for NetworkRecord {
    fn from(request: &NetworkRequest) -> Self {
        Self {
            policy: request.policy.clone(),
            is_from_operator: request.is_from_operator,
        }
    }
}

impl From<NetworkRecord> for NetworkRequest {
    fn from(record: NetworkRecord) -> Self {
        Self {
            policy: record.policy,
            is_from_operator: record.is_from_operator,
            ..Self::default()
        }
    }
}

/// Returns the id of the server that this state belongs to. It is created with the first use of the state.
pub(crate) fn server_id(store: &Store, new: &str) -> Result<String, StoreError> {
    let select = "SELECT id FROM server LIMIT 1";
    let found: Option<String> =
        store.read(|c| c.query_row(select, [], |row| row.get(0)).optional())?;
    match found {
        Some(id) => Ok(id),
        None => {
            store.write_essential(|c| c.execute("INSERT INTO server (id) VALUES (?)", [new]))?;
            Ok(new.to_owned())
        }
    }
}
