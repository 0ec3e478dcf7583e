//! One connection of a guest's, from its first packet to its end.

mod connection;
mod context;
mod first_bytes;
mod lazy_trust;
mod name_server;
mod proxied_requests;
mod refuse;
mod relay;

pub(crate) use context::World;
pub(crate) use relay::pass_both_ways;
