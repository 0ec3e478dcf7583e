//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.

pub mod policy;

#[allow(dead_code, reason = "who calls it comes with the stack")]
mod hello;
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod http;
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod refusal;
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod secret;
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod stream;
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod tls;
