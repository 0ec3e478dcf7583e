//! The guest's name server: it answers for names that the policy allows, and remembers what it said.

mod known;
mod message;
mod resolver;
mod server;

pub(crate) use known::Known;
pub(crate) use resolver::Resolver;
pub(crate) use server::NameServer;
