//! The proxy's interface to its callers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::exchange::RequestObserver;
use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::stream::{Stream, UpstreamError};

/// Decides on requests.
pub(crate) trait RequestFilter: Send + Sync {
    /// Decides whether a request may be forwarded; returns the rule that allows it, if there is one.
    ///
    /// # Errors
    /// Returns the refusal that the guest receives if the request is denied.
    fn check(&self, request: &RequestHead<'_>) -> Result<Option<RuleId>, Refusal>;
}

/// The part of a request that is decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHead<'a> {
    /// A DNS name in lowercase, or an address without brackets.
    pub(crate) host: &'a str,
    /// The port that the request names, if it does.
    pub(crate) port: Option<u16>,
    /// The method, as it was sent, or one that a header puts in its place.
    pub(crate) method: &'a str,
    /// Whether the request asks for an upgrade to WebSocket.
    pub(crate) upgrades: bool,
    /// The path and query, as they were sent; `*` for the server as a whole.
    pub(crate) path: &'a str,
}

/// A connection to the server that is being opened.
pub(crate) type ConnectFuture =
    Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, UpstreamError>> + Send>>;

/// Opens connections to the one server that the caller has decided on.
pub(crate) type Connector = Box<dyn Fn() -> ConnectFuture + Send + Sync>;

/// How the guest's connection is secured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Plain HTTP. The first request names its host.
    Plain,
    /// Terminated TLS, whose client named this host.
    Tls(String),
}

/// A proxy for one connection of the guest.
pub(crate) struct Proxy {
    /// How the connection is secured.
    pub(crate) scheme: Scheme,
    /// Decides on each request.
    pub(crate) filter: Arc<dyn RequestFilter>,
    /// Receives each request when it is finished.
    pub(crate) observer: Arc<dyn RequestObserver>,
    /// The sandbox's secrets.
    pub(crate) secrets: Arc<Secrets>,
    /// Deadline for the server to start its answer, and for the next byte of a body on either side; by default
    /// [`ANSWER_TIMEOUT`](super::ANSWER_TIMEOUT).
    pub(crate) answer_timeout: Duration,
    /// Opens connections to the server.
    pub(crate) connect: Connector,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}
