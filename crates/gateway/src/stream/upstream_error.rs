//! Why a server does not answer.

use std::io;
use std::time::Duration;

/// Why a server does not answer. The guest reads these messages in a page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The server refuses the connection, does not exist, or speaks another protocol.
    #[error("the server could not be reached, or did not answer in HTTP/1: {0}")]
    Failed(#[source] io::Error),
    /// The server cannot prove its identity.
    #[error(
        "the server's certificate is not trusted by the host that runs the sandbox: {0}; if it is the right server, \
         add its certificate authority to that host's trust store, or set SSL_CERT_FILE there"
    )]
    Untrusted(String),
    /// The server did not answer in time.
    #[error("the server did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}
