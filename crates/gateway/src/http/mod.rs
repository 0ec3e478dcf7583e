//! A proxy for HTTP/1 requests, on a plain connection or inside terminated TLS.
//!
//! Each request is decided on before it is forwarded. hyper parses messages on both sides and writes them again, so
//! that no two readers can understand a message differently. A connection of the guest goes to one host, over at most
//! one connection to it at a time. HTTP/2 is not spoken, `CONNECT` is refused, and of upgrades only `websocket` passes.
//! Trailers are dropped in both directions.
//!
//! The policy does not belong here: callers decide through [`RequestFilter`].

mod serve;
mod session;
mod upstream;
mod page;
mod body;
mod upgrade;
mod websocket;
mod exchange;
mod target;
mod proxy;
mod headers;
mod idle_timer;
mod limits;

#[cfg(test)]
mod tests;

pub(crate) use exchange::{RequestObserver, RequestRecord};
pub(crate) use limits::ANSWER_TIMEOUT;
pub(crate) use proxy::{ConnectFuture, Connector, Proxy, RequestFilter, RequestHead, Scheme};
