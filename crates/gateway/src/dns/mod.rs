//! The guest's name server.
//!
//! It answers queries for names that the policy allows and records which addresses it returned, since connections are
//! decided by the names that an address was returned for. It does not open connections and does not serve TCP itself:
//! `flow` reads queries from the guest's TCP connections, and `gateway` those from datagrams.

mod message;
mod name_server;
mod resolved_names;
mod resolver;

pub(crate) use name_server::NameServer;
pub(crate) use resolved_names::ResolvedNames;
pub(crate) use resolver::Resolver;
