//! DNS over TCP.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::context::ConnectionContext;
use crate::stack::GuestStream;

/// Deadline for the guest's next query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length of a query, in bytes. A name takes at most 255.
const MAX_QUERY_BYTES: u16 = 4096;

impl ConnectionContext {
    /// Answers DNS queries over TCP. Each message follows its length, in two bytes.
    pub(super) async fn serve_dns_over_tcp(&self, mut guest: GuestStream) {
        if !guest.accept().await {
            return;
        }

        while let Some(query) = read_query(&mut guest).await {
            let Some(answer) = self.name_server.answer(&query, true).await else {
                break;
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                break;
            };
            let message = [&length.to_be_bytes(), answer.as_slice()].concat();
            if guest.write_all(&message).await.is_err() {
                return;
            }
        }

        let _ = guest.shutdown().await;
    }
}

async fn read_query(guest: &mut GuestStream) -> Option<Vec<u8>> {
    let reading = async {
        let length = guest.read_u16().await.ok()?;
        if length > MAX_QUERY_BYTES {
            return None;
        }
        let mut query = vec![0; usize::from(length)];
        guest.read_exact(&mut query).await.ok()?;
        Some(query)
    };
    tokio::time::timeout(QUERY_TIMEOUT, reading).await.ok()?
}
