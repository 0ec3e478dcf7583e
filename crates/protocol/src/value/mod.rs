//! The values that messages carry, each with its own validation. They know the limits, but no message.

mod chunk;
mod constant_time;
mod context_name;
mod env_vars;
mod guest_path;
mod idempotency_key;
mod language;
mod op_id;
mod package;
mod signal_name;

pub use chunk::Chunk;
pub use constant_time::constant_time_eq;
pub use context_name::ContextName;
pub use env_vars::{BLOCKED_NAMES, BLOCKED_PREFIXES, EnvVars, is_blocked};
pub use guest_path::GuestPath;
pub use idempotency_key::IdempotencyKey;
pub use language::Language;
pub use op_id::OpId;
pub use package::{PackageSpec, Packages};
pub use signal_name::SignalName;
