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
    /// The answer of a host with secrets cannot be searched.
    #[error(
        "the server compressed its answer although it was asked not to, so a secret in it could not be found; disable \
         compression for this host, or remove the secret's host from the policy"
    )]
    Encoded,
    /// The answer of a host with secrets is a part.
    #[error(
        "the server sent a part of its answer, which was not requested, so a part of a secret in it could not be found"
    )]
    Partial,
    /// The server did not answer in time.
    #[error("the server did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}
