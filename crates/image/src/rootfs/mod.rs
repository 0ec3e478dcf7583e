//! The guest's read-only root file system: Debian's packages, our programs and settings, packed as erofs.
//!
//! This folder defines the contents of the guest's tree. Downloading packages and programs belongs in
//! [`tools`](crate::tools).

mod assemble;
pub(crate) mod base_packages;
mod bytecode;
pub(crate) mod commands;
mod pack;
mod tree;

pub(crate) use self::assemble::{TreeInputs, assemble};
pub(crate) use self::pack::{missing_prerequisites, pack};
