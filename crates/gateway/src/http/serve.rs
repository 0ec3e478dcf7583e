//! Serves a guest's connection.

use std::io;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::idle_timer::{ActivityTracked, IdleTimer};
use super::limits::{BUFFER_BYTES, MAX_HEAD_BYTES, MAX_HEADERS};
use super::proxy::Proxy;
use super::session::Session;
use crate::stream::{GracefulClose, Stream};

impl Proxy {
    /// Serves the guest's connection until it ends. Dropping the future closes both connections at once.
    ///
    /// # Errors
    /// Fails if the guest is gone, was too slow or did not speak HTTP/1, or if the server broke off. The guest has
    /// received everything that it can receive about it.
    pub(crate) async fn serve(self, guest: impl Stream) -> io::Result<()> {
        let timer = Arc::new(IdleTimer::new(self.answer_timeout));
        let guest = ActivityTracked::new(GracefulClose::new(guest), Arc::clone(&timer));
        let session = Arc::new(Session::new(self, Arc::clone(&timer)));

        let answering = Arc::clone(&session);
        let service = service_fn(move |request| Arc::clone(&answering).answer(request));
        let connection = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .max_buf_size(BUFFER_BYTES)
            // The idle timer distinguishes a slow head from a pause between requests; hyper's timeout does not.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(guest), service)
            .with_upgrades();

        let serving = async {
            connection.await.map_err(io::Error::other)?;
            match session.take_splice() {
                Some(splice) => splice.run().await,
                None => session.close_declined_upgrade().await,
            }
        };
        tokio::select! {
            served = serving => served,
            () = timer.expired() => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
