//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.

pub mod policy;

mod link;
mod stack;

pub use link::{End, Link};
