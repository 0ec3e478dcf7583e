//! One file for each command.

pub(crate) mod agent;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod keys;
pub(crate) mod layer;
pub(crate) mod mcp;
pub(crate) mod policy;
pub(crate) mod repl;
pub(crate) mod run;
mod runtime;
pub(crate) mod serve;
pub(crate) mod shell;
pub(crate) mod template;
