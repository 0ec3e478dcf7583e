use serde::{Deserialize, Serialize};

/// Why a state was saved. In JSON: `paused` or `checkpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedStateKind {
    /// The sandbox was paused: the state is its only copy. It keeps its identity.
    Paused,
    /// The sandbox has continued. Each sandbox that starts from the state has a new identity.
    Checkpoint,
}
