//! A proxy for HTTP/1 requests that are seen one by one: on a plain connection, or within TLS that ends here.
//!
//! Both sides are parsed and written anew by hyper, so that no two readers can understand a message differently.
//! One guest's connection speaks with one host, over at most one connection to it at a time. HTTP/2 is not spoken,
//! `CONNECT` is refused, and of upgrades only `websocket` passes. Trailers are dropped, in both directions.

mod body;
mod exchange;
mod headers;
mod page;
mod pulse;
mod session;
mod target;
mod upgrade;
mod upstream;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

#[allow(unused_imports, reason = "who calls it comes with the stack")]
pub(crate) use exchange::{Event, Watch};
pub(crate) use upstream::Unreachable;

use crate::policy::RuleId;
use crate::refusal::Refusal;
use crate::secret::Secrets;
use crate::stream::{Lingering, Stream};
use pulse::{Felt, Pulse};
use session::Session;

/// Bytes of a message's head, on either side.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// Headers of a message, on either side.
pub(crate) const HEADERS: usize = 128;

/// Bytes that hyper holds of a connection, in each direction: a head and what came with it.
const BUFFER_BYTES: usize = 2 * HEAD_BYTES;

/// Time from a head's first byte to its last.
pub(crate) const HEAD: Duration = Duration::from_secs(30);

/// Time from one answer to the next request.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// Time in which a server must begin to answer, unless the caller says otherwise.
pub(crate) const ANSWER: Duration = Duration::from_secs(300);

/// Time without a byte after which an upgraded connection is given up.
pub(crate) const UPGRADED: Duration = Duration::from_secs(60 * 60);

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

impl Proxy {
    /// Serves the guest's connection to its end. Dropped, it ends both connections at once.
    ///
    /// # Errors
    /// The guest is gone, was too slow, or spoke no HTTP/1; or the server broke off. Nothing is left to be told.
    pub(crate) async fn serve(self, guest: impl Stream) -> io::Result<()> {
        let pulse = Arc::new(Pulse::new(self.answer));
        let felt = Felt::new(Lingering::new(guest), Arc::clone(&pulse));
        let session = Arc::new(Session::new(self, Arc::clone(&pulse)));
        let answering = Arc::clone(&session);
        let service = service_fn(move |request| Arc::clone(&answering).answer(request));
        let connection = http1::Builder::new()
            .max_header_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER_BYTES)
            // The pulse tells a slow head from a rest between requests; hyper does not.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(felt), service)
            .with_upgrades();
        let served = async {
            connection.await.map_err(io::Error::other)?;
            match session.upgraded() {
                Some(splice) => splice.run().await,
                None => session.decline().await,
            }
        };
        tokio::select! {
            ended = served => ended,
            () = pulse.stopped() => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
