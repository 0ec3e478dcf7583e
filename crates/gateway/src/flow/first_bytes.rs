use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::policy::{HostName, Said};
use crate::stream::Stream;
use crate::tls::{SNIFF_BYTES, Sniffed, sniff};

/// How long a guest may take to say who it wants to speak with: a client of TLS or HTTP speaks first, and at
/// once; under software emulation its first message may take seconds to make.
const FIRST: Duration = Duration::from_secs(30);

/// What a guest said first.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Said(Sniffed),
    /// Nothing in time.
    Nothing,
}

/// Reads until it is known what is spoken. `None`: the guest has gone.
pub(super) async fn first_bytes(guest: &mut impl Stream) -> Option<(First, Bytes)> {
    let mut read = BytesMut::with_capacity(SNIFF_BYTES);
    let reading = async {
        loop {
            match guest.read_buf(&mut read).await {
                Ok(0) if read.is_empty() => return None,
                // It has said all that it will.
                Ok(0) => return Some(Sniffed::Other),
                Ok(_) => {}
                Err(_) => return None,
            }
            match sniff(&read) {
                Sniffed::More => {}
                sniffed => return Some(sniffed),
            }
        }
    };
    let first = match tokio::time::timeout(FIRST, reading).await {
        Ok(sniffed) => First::Said(sniffed?),
        Err(_) if read.is_empty() => First::Nothing,
        Err(_) => First::Said(Sniffed::Other),
    };
    Some((first, read.freeze()))
}

impl First {
    /// The host that it is for, where TLS says one.
    pub(super) fn server_name(&self) -> Option<HostName> {
        match self {
            Self::Said(Sniffed::Tls(hello)) => hello.server_name.as_ref()?.parse().ok(),
            _ => None,
        }
    }

    /// As the policy is asked about it.
    pub(super) fn said<'a>(&self, server_name: Option<&'a HostName>) -> Said<'a> {
        match self {
            Self::Nothing => Said::Nothing,
            Self::Said(Sniffed::Tls(hello)) => Said::Tls {
                server_name,
                encrypted: hello.encrypted,
            },
            Self::Said(Sniffed::Http { preface: false }) => Said::Http,
            Self::Said(_) => Said::Other,
        }
    }
}
