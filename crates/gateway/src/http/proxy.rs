use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::exchange::Watch;
use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::stream::{Stream, Unreachable};

/// Decides on every request.
pub(crate) trait Judge: Send + Sync {
    /// Says whether a request may be sent, and by which rule.
    ///
    /// # Errors
    /// It may not; the guest reads why.
    fn judge(&self, request: &Seen<'_>) -> Result<Option<RuleId>, Refusal>;
}

/// What of a request is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen<'a> {
    /// A DNS name in small letters, or an address without brackets.
    pub(crate) host: &'a str,
    /// The port that the request names, if it does.
    pub(crate) port: Option<u16>,
    /// The method, as it came.
    pub(crate) method: &'a str,
    /// Path and query, as they came; `*` for the server as a whole.
    pub(crate) path: &'a str,
}

/// A connection to the server, or why there is none.
pub(crate) type Connecting =
    Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, Unreachable>> + Send>>;

/// Makes connections to the one server that the caller has decided on.
pub(crate) type Connector = Box<dyn Fn() -> Connecting + Send + Sync>;

/// How the guest's connection came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Readable by anyone; its first request names its host.
    Plain,
    /// Within TLS that ended here, whose client named this host.
    Sealed(String),
}

/// One guest's connection, and what decides about it.
pub(crate) struct Proxy {
    /// How it came.
    pub(crate) scheme: Scheme,
    /// Who decides.
    pub(crate) judge: Arc<dyn Judge>,
    /// Who is told of each request when it is over.
    pub(crate) watch: Arc<dyn Watch>,
    /// The sandbox's secrets.
    pub(crate) secrets: Arc<Secrets>,
    /// Time in which the server must begin to answer: [`ANSWER`] by default. As long may either side rest in a body.
    pub(crate) answer: Duration,
    /// The way to the server.
    pub(crate) connect: Connector,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}
