use std::io;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::idle_timer::{Felt, Pulse};
use super::limits::{BUFFER_BYTES, HEAD_BYTES, HEADERS};
use super::proxy::Proxy;
use super::session::Session;
use crate::stream::{Lingering, Stream};

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
