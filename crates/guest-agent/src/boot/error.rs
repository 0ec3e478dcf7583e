use std::io;

/// Why the guest could not boot.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootError {
    /// The kernel rejected something.
    #[error("cannot {action}: {source}")]
    System {
        /// The attempted action, which completes "cannot …".
        action: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A device did not appear.
    #[error("there is no {0}; check the devices of the VM")]
    MissingDevice(&'static str),
    /// A part of the agent failed to start.
    #[error("{0}")]
    Agent(String),
}

/// Returns a function that adds the attempted action to the kernel's error.
pub(super) fn failed_to<E: Into<io::Error>>(
    action: impl Into<String>,
) -> impl FnOnce(E) -> BootError {
    move |source| BootError::System {
        action: action.into(),
        source: source.into(),
    }
}
