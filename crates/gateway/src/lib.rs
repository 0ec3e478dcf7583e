//! The guest's only network: a userspace TCP/IP peer on the host, with one policy decision function.

pub mod policy;

mod budget;
mod dns;
mod event;
mod flow;
mod gateway;
mod hello;
mod link;
mod refusal;
mod stack;
mod stream;
#[cfg(test)]
mod testing;

pub use event::{Denial, Event, Summary, What};
pub use gateway::{Connections, Gateway, Setup};
pub use link::{End, Link};
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod http;
#[allow(dead_code, reason = "who calls it comes with the stack")]
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod secret;
#[allow(dead_code, reason = "who calls it comes with the stack")]
#[allow(dead_code, reason = "who calls it comes with the stack")]
mod tls;
