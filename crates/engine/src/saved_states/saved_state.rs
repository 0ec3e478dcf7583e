use fumehood_image::{StateId, StateSummary};
use serde::Serialize;

use super::description::Description;
use super::kind::SavedStateKind;
use crate::error::{Error, ErrorKind};
use crate::packages::InstalledPackage;
use crate::snapshot::RunningPrograms;

/// A saved state in the store: a paused sandbox, or a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SavedState {
    /// Its identifier.
    pub id: StateId,
    /// The caller's text, by which it finds the state again.
    pub label: String,
    /// Whether a sandbox was paused.
    pub kind: SavedStateKind,
    /// The creation time, in seconds since 1970.
    pub created: u64,
    /// The guest's memory, in MiB.
    pub memory_mib: u32,
    /// The size on disk in bytes, without files that it shares with templates, images and layers.
    pub disk_bytes: u64,
    /// Whether the guest has a network card: it can then be resumed with a network.
    pub network: bool,
    /// The names of the secrets for which the guest has placeholders.
    pub secrets: Vec<String>,
    /// The programs that ran, and continue when it is resumed.
    pub programs: RunningPrograms,
    /// The packages that the sandbox was created with.
    pub packages: Vec<InstalledPackage>,
}

impl SavedState {
    /// Reads the record of a state in the store.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Damaged`].
    pub(super) fn new(summary: StateSummary) -> Result<Self, Error> {
        let StateSummary {
            manifest,
            disk_bytes,
        } = summary;
        let description = description(&manifest.id, manifest.description)?;
        Ok(Self {
            memory_mib: description.memory_mib(),
            network: description.has_network(),
            id: manifest.id,
            label: manifest.label,
            kind: description.kind,
            created: manifest.created,
            disk_bytes,
            secrets: description.placeholders.into_keys().collect(),
            programs: description.programs,
            packages: description.packages,
        })
    }
}

/// Parses the engine's part of a manifest.
pub(super) fn description(id: &StateId, value: serde_json::Value) -> Result<Description, Error> {
    serde_json::from_value(value).map_err(|error| {
        let message =
            format!("the description of saved state {id} in manifest.json is invalid: {error}");
        Error::new(ErrorKind::Damaged, message)
    })
}

/// Converts an error of the store.
pub(super) fn state_error(error: fumehood_image::Error) -> Error {
    use fumehood_image::Error as StoreError;
    let kind = match &error {
        StoreError::MissingState { .. } => ErrorKind::Missing,
        StoreError::StateInUse { .. } => ErrorKind::InUse,
        StoreError::DamagedState { .. } => ErrorKind::Damaged,
        StoreError::Option { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Host,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}
