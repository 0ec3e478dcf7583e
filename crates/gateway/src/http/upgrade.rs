//! Upgrades to WebSocket. Afterwards bytes pass in both directions; only the messages of a host with secrets are parsed.

use std::io;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::exchange::Exchange;
use super::headers::tokens;
use super::idle_timer::IdleTimer;
use super::websocket::RedactedFrames;
use crate::secret::SecretMatcher;

/// The only protocol that a connection may be upgraded to.
const WEBSOCKET: &str = "websocket";

/// Size of the copy buffer in each direction, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// Returns whether a message requests, or agrees to, WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap, body: &impl Body) -> bool {
    body.is_end_stream()
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(WEBSOCKET))
}

/// Adds the headers that request, or agree to, WebSocket and nothing else.
pub(super) fn insert_headers(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Both sides of an upgraded connection.
pub(super) struct Splice {
    pub(super) guest: OnUpgrade,
    pub(super) server: OnUpgrade,
    /// Finds the secrets that must not come back from the host.
    pub(super) matcher: Option<Arc<SecretMatcher>>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) timer: Arc<IdleTimer>,
}

impl Splice {
    /// Forwards bytes until both sides have closed, or one fails.
    pub(super) async fn run(self) -> io::Result<()> {
        let (guest, server) =
            tokio::try_join!(self.guest, self.server).map_err(io::Error::other)?;
        self.timer.upgraded();

        let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
        let (from_server, to_server) = tokio::io::split(TokioIo::new(server));
        let (exchange, timer) = (&self.exchange, &self.timer);
        let up = async {
            let count = |bytes| exchange.add_bytes_up(bytes);
            forward(from_guest, to_server, None, count).await?;
            timer.half_closed();
            Ok(())
        };
        let down = async {
            let count = |bytes| exchange.add_bytes_down(bytes);
            let frames = self.matcher.map(RedactedFrames::new);
            forward(from_server, to_guest, frames, count).await?;
            timer.half_closed();
            Ok(())
        };
        tokio::try_join!(up, down).map(|((), ())| ())
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frames: Option<RedactedFrames>,
    count: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = &buffer[..length];
        match &mut frames {
            None => to.write_all(bytes).await?,
            Some(frames) => to.write_all(&frames.push(bytes)?).await?,
        }

        if length == 0 {
            return to.shutdown().await;
        }
        to.flush().await?;
        count(length);
    }
}
