//! Reads a connection's first bytes, which show what protocol is spoken and for which host.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::policy::{ClientProtocol, HostName};
use crate::stream::Stream;
use crate::tls::{SNIFF_BYTES, SniffResult, sniff};

/// Deadline for the guest's first message. Clients of TLS and HTTP speak first and at once, but under software emulation
/// it may take seconds to compute that message.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(30);

/// The start of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FirstBytes {
    Received(SniffResult),
    /// The guest sent nothing in time.
    Silent,
}

/// Reads until the protocol is known; `None` if the guest has closed the connection.
pub(super) async fn read_first_bytes(guest: &mut impl Stream) -> Option<(FirstBytes, Bytes)> {
    let mut read = BytesMut::with_capacity(SNIFF_BYTES);
    let reading = async {
        loop {
            match guest.read_buf(&mut read).await {
                Ok(0) if read.is_empty() => return None,
                // The guest has closed its side: no more bytes follow.
                Ok(0) => return Some(SniffResult::Other),
                Ok(_) => {}
                Err(_) => return None,
            }
            match sniff(&read) {
                SniffResult::Incomplete => {}
                result => return Some(result),
            }
        }
    };

    let first_bytes = match tokio::time::timeout(FIRST_BYTES_TIMEOUT, reading).await {
        Ok(result) => FirstBytes::Received(result?),
        Err(_) if read.is_empty() => FirstBytes::Silent,
        Err(_) => FirstBytes::Received(SniffResult::Other),
    };
    Some((first_bytes, read.freeze()))
}

impl FirstBytes {
    /// Returns the server name in the TLS `ClientHello`, if there is one.
    pub(super) fn server_name(&self) -> Option<HostName> {
        match self {
            Self::Received(SniffResult::Tls(hello)) => hello.server_name.as_ref()?.parse().ok(),
            _ => None,
        }
    }

    /// Returns the protocol in the policy's terms.
    pub(super) fn client_protocol<'a>(
        &self,
        server_name: Option<&'a HostName>,
    ) -> ClientProtocol<'a> {
        match self {
            Self::Silent => ClientProtocol::Silent,
            Self::Received(SniffResult::Tls(hello)) => ClientProtocol::Tls {
                server_name,
                encrypted: hello.encrypted,
            },
            Self::Received(SniffResult::Http { preface: false }) => ClientProtocol::Http,
            Self::Received(_) => ClientProtocol::Other,
        }
    }
}
