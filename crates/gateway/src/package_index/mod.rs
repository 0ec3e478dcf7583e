//! The package indexes that this host's own tools are configured for.
//!
//! This folder reads the configuration of pip, uv, npm and bun. Rules for an index are made in `policy`.

mod credential;
mod ecosystem;
mod error;
mod index;
mod javascript;
mod python;
mod settings;
mod tool_environment;

#[cfg(test)]
mod tests;

pub use credential::{Credential, Login};
pub use ecosystem::Ecosystem;
pub use error::{IndexError, MAX_INDEXES};
pub use index::Index;
pub(crate) use settings::host_and_port;
pub use tool_environment::ToolEnvironment;
