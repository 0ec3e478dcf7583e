//! A sandbox as the server holds it: its public description, and its VM or its saved state.
//!
//! Pausing and resuming belong in `service`.

mod access;
mod lookup;
mod handle;
mod body;
mod starting;
mod state_label;

pub use access::SandboxUse;
pub(crate) use access::{Access, PauseAccess};
pub(crate) use body::{Body, Completion, Running, SavedBody};
pub use handle::SandboxHandle;
pub(crate) use handle::{Description, EndCause, ExposedPort};
pub(crate) use lookup::SandboxLookup;
pub(crate) use starting::Starting;
pub(crate) use state_label::{StateKind, StateLabel};
