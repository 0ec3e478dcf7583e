use std::io;
use std::time::Duration;

/// Why the server gives no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// It refuses, is not there, or speaks another protocol.
    #[error("the server could not be reached, or gave no answer in HTTP/1: {0}")]
    Failed(#[source] io::Error),
    /// It is there, but does not prove to be who it should be.
    #[error(
        "the server's certificate is not trusted by the host that runs the sandbox: {0}; if the server is right, \
         add its authority to that host's trust store, or set SSL_CERT_FILE there"
    )]
    Untrusted(String),
    /// It does not answer.
    #[error("the server did not answer within {} s", .0.as_secs())]
    Slow(Duration),
}
