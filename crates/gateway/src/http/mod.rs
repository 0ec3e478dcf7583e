//! A proxy for HTTP/1 requests that are seen one by one: on a plain connection, or within TLS that ends here.
//!
//! Both sides are parsed and written anew by hyper, so that no two readers can understand a message differently.
//! One guest's connection speaks with one host, over at most one connection to it at a time. HTTP/2 is not spoken,
//! `CONNECT` is refused, and of upgrades only `websocket` passes. Trailers are dropped, in both directions.

mod body;
mod exchange;
mod headers;
mod idle_timer;
mod limits;
mod page;
mod proxy;
mod serve;
mod session;
mod target;
mod upgrade;
mod upstream;

#[cfg(test)]
mod tests;

pub(crate) use exchange::{Event, Watch};
pub(crate) use limits::ANSWER;
pub(crate) use proxy::{Connecting, Connector, Judge, Proxy, Scheme, Seen};
