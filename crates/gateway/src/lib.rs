//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.

pub mod policy;
