//! The owner of runs and sandboxes.

use std::fmt;
use std::sync::Arc;

/// The owner of runs, sandboxes and checkpoints: an API key, or the local user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<str>);

const LOCAL: &str = "local";

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) owner: Owner,
    /// Whether the caller sees and ends what belongs to others, too: the local user, and keys that were created so.
    pub(crate) is_operator: bool,
}

impl Identity {
    /// The local user, who operates the server.
    pub(crate) fn local() -> Self {
        Self {
            owner: Owner::local(),
            is_operator: true,
        }
    }
}

impl Owner {
    /// The local user, whose processes connect through the Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self(LOCAL.into())
    }

    /// The owner with this API key id.
    pub(crate) fn key(id: &str) -> Self {
        Self(id.into())
    }

    /// The owner whose id a record has.
    pub(crate) fn from_record(id: &str) -> Self {
        Self(id.into())
    }

    /// Whether this is the local user.
    #[must_use]
    pub fn is_local(&self) -> bool {
        &*self.0 == LOCAL
    }

    /// Returns the owner's id, as the database and logs have it. It is not secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
