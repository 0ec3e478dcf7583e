use std::fmt;
use std::sync::Arc;

/// Whom runs and sandboxes belong to: a key, or this user's own processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(Arc<str>);

const LOCAL: &str = "local";

impl Owner {
    /// This user's own processes, by the Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self(LOCAL.into())
    }

    /// A key, by its id.
    pub(crate) fn key(id: &str) -> Self {
        Self(id.into())
    }

    /// Whether it is this user's own processes.
    #[must_use]
    pub fn is_local(&self) -> bool {
        &*self.0 == LOCAL
    }

    /// Its name in the store and in logs; nothing secret.
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
