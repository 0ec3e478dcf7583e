//! The commands, one module each, with a function `run` that returns the exit code. What several commands need (arguments,
//! files, messages) belongs to the layers below.

pub(crate) mod agent;
pub(crate) mod conformance;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod policy;
pub(crate) mod repl;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod server;
pub(crate) mod shell;
pub(crate) mod store;

mod format;
mod runtime;
mod terminal;
