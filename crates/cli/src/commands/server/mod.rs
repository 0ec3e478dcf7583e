//! The server, and what its operator does.

pub(crate) mod keys;
pub(crate) mod mcp;
pub(crate) mod sandboxes;
pub(crate) mod serve;
