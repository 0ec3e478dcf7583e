//! Sends a refusal and closes the connection.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::reason::Refusal;
use crate::stream::{CLOSE_TIMEOUT, GracefulClose, Stream};

/// Deadline for writing a refusal to a guest that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// A fatal TLS alert that a client understands before it has received a `ServerHello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alert {
    /// `access_denied`: the policy denies the connection.
    AccessDenied,
    /// `unrecognized_name`: the client sends no server name, or none that can be read.
    UnrecognizedName,
}

impl Alert {
    fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        let description = match self {
            Self::AccessDenied => 49,
            Self::UnrecognizedName => 112,
        };
        [ALERT, 3, 3, 0, 2, FATAL, description]
    }
}

/// Answers any HTTP request with 403 and the reason, and closes the connection.
///
/// # Errors
/// Fails if the guest is gone or does not read.
pub(crate) async fn refuse_http(stream: impl Stream, refusal: &Refusal) -> io::Result<()> {
    let body = refusal.body();
    let page = format!(
        "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nX-Fumehood-Denied: {}\r\n\r\n{body}",
        body.len(),
        refusal.code,
    );
    write_and_close(stream, page.as_bytes()).await
}

/// Answers a `ClientHello` with an alert, and closes the connection.
///
/// # Errors
/// Fails if the guest is gone or does not read.
pub(crate) async fn refuse_tls(stream: impl Stream, alert: Alert) -> io::Result<()> {
    write_and_close(stream, &alert.record()).await
}

async fn write_and_close(stream: impl Stream, bytes: &[u8]) -> io::Result<()> {
    let mut stream = GracefulClose::new(stream);
    let closing = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(WRITE_TIMEOUT + CLOSE_TIMEOUT, closing).await?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::AlertDescription;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_page_is_complete_although_the_guest_still_sends() {
        let (mut guest, gateway) = tokio::io::duplex(64);
        let refusal = Refusal::new("not_allowed", "policy \"p\" does not allow example.com");
        let server = tokio::spawn(async move { refuse_http(gateway, &refusal).await });
        let (mut read, mut write) = tokio::io::split(&mut guest);
        let sending = async {
            write.write_all(&[b'x'; 8192]).await.unwrap();
            write.shutdown().await.unwrap();
        };

        let mut page = String::new();
        let (_, read_result) = tokio::join!(sending, read.read_to_string(&mut page));
        read_result.unwrap();
        server.await.unwrap().unwrap();

        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
        assert!(head.contains("\r\nX-Fumehood-Denied: not_allowed"));
        assert!(head.contains("\r\nConnection: close\r\n"));
        assert_eq!(body, "policy \"p\" does not allow example.com\n");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_does_not_read_times_out() {
        let (_guest, gateway) = tokio::io::duplex(1);
        let error = refuse_tls(gateway, Alert::AccessDenied).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_tls_client_reads_the_alert() {
        for (alert, expected) in [
            (Alert::AccessDenied, AlertDescription::AccessDenied),
            (Alert::UnrecognizedName, AlertDescription::UnrecognisedName),
        ] {
            let (guest, mut gateway) = tokio::io::duplex(4096);
            let server = tokio::spawn(async move {
                let mut hello = [0; 1];
                gateway.read_exact(&mut hello).await?;
                refuse_tls(gateway, alert).await
            });

            let config = crate::testing::tls_client(&[]);
            let name = "example.com".try_into().unwrap();
            let error = tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect(name, guest)
                .await
                .unwrap_err();

            let error = error.into_inner().unwrap();
            assert_eq!(
                error.downcast_ref::<rustls::Error>().unwrap(),
                &rustls::Error::AlertReceived(expected)
            );
            server.await.unwrap().unwrap();
        }
    }
}
