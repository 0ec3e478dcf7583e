//! The guest's read-only root file system.

mod assemble;
pub(crate) mod base;
mod compiled;
mod pack;
mod tree;

pub(crate) use assemble::{Parts, assemble};
pub(crate) use pack::pack;
