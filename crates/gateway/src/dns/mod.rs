//! The guest's name server: it answers for names that the policy allows, and remembers what it said.

mod message;
mod name_server;
mod resolved_names;
mod resolver;

pub(crate) use name_server::NameServer;
pub(crate) use resolved_names::Known;
pub(crate) use resolver::Resolver;
