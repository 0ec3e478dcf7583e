//! Connections that stop being HTTP: WebSocket alone, and then bytes pass as they are.

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
use super::idle_timer::Pulse;
use crate::secret::Redactor;

/// The one protocol that may follow.
const WEBSOCKET: &str = "websocket";

/// Bytes that are in the gateway's hands, in each direction.
const PIECE_BYTES: usize = 16 * 1024;

/// Whether a message asks for, or agrees to, WebSocket.
pub(super) fn wanted(headers: &HeaderMap, body: &impl Body) -> bool {
    body.is_end_stream()
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(WEBSOCKET))
}

/// Asks for, or agrees to, WebSocket and nothing else.
pub(super) fn insert(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Both sides of a connection that has been upgraded.
pub(super) struct Splice {
    pub(super) guest: OnUpgrade,
    pub(super) server: OnUpgrade,
    pub(super) redactor: Option<Redactor>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) pulse: Arc<Pulse>,
}

impl Splice {
    /// Passes bytes on until both sides are done, or one breaks.
    pub(super) async fn run(self) -> io::Result<()> {
        let (guest, server) =
            tokio::try_join!(self.guest, self.server).map_err(io::Error::other)?;
        self.pulse.upgraded();
        let (from_guest, to_guest) = tokio::io::split(TokioIo::new(guest));
        let (from_server, to_server) = tokio::io::split(TokioIo::new(server));
        let (exchange, pulse) = (&self.exchange, &self.pulse);
        let up = async {
            pass(from_guest, to_server, None, |bytes| exchange.up(bytes)).await?;
            pulse.closing();
            Ok(())
        };
        let down = async {
            let count = |bytes| exchange.down(bytes);
            pass(from_server, to_guest, self.redactor, count).await?;
            pulse.closing();
            Ok(())
        };
        tokio::try_join!(up, down).map(|((), ())| ())
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut redactor: Option<Redactor>,
    count: impl Fn(usize),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        let text = &piece[..length];
        match &mut redactor {
            None => to.write_all(text).await?,
            Some(redactor) if length > 0 => to.write_all(&redactor.push(text)).await?,
            Some(redactor) => to.write_all(&redactor.finish()).await?,
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.flush().await?;
        count(length);
    }
}
