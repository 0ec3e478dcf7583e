//! The connection to the server, of which a guest's connection has at most one at a time.

use std::io;

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::body::Up;
use super::limits::{BUFFER_BYTES, HEAD_BYTES, HEADERS};
use super::proxy::Connector;
use crate::stream::Unreachable;

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// The guest is told.
    Unreachable(Unreachable),
    /// A connection that had served before was closed under the request. A guest that were connected with the server
    /// itself would see just that, and may try again.
    Stale,
}

/// The way to the server, and the connection while there is one.
pub(super) struct Upstream {
    connect: Connector,
    sender: Option<SendRequest<Up>>,
    /// What drives connections. Ends them when dropped.
    drivers: JoinSet<()>,
}

impl Upstream {
    pub(super) fn new(connect: Connector) -> Self {
        Self {
            connect,
            sender: None,
            drivers: JoinSet::new(),
        }
    }

    /// Sends a request on the connection there is, or on a new one.
    pub(super) async fn send(
        &mut self,
        request: Request<Up>,
    ) -> Result<Response<Incoming>, Failure> {
        let Some(mut sender) = self.kept().await else {
            return self.send_anew(request).await;
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.sender = Some(sender);
                Ok(response)
            }
            Err(mut error) => match error.take_message() {
                Some(request) => self.send_anew(request).await,
                None => Err(Failure::Stale),
            },
        }
    }

    /// The connection that is there, if it can be used again.
    async fn kept(&mut self) -> Option<SendRequest<Up>> {
        let mut sender = self.sender.take()?;
        sender.ready().await.ok().map(|()| sender)
    }

    async fn send_anew(&mut self, request: Request<Up>) -> Result<Response<Incoming>, Failure> {
        let stream = (self.connect)().await.map_err(Failure::Unreachable)?;
        let failed = |error| Failure::Unreachable(Unreachable::Failed(io::Error::other(error)));
        let (mut sender, driver) = Builder::new()
            .max_header_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // What it comes to is told by the response, or by its body.
        self.drivers
            .spawn(async move { drop(driver.with_upgrades().await) });
        while self.drivers.try_join_next().is_some() {}
        let response = sender.send_request(request).await.map_err(failed)?;
        self.sender = Some(sender);
        Ok(response)
    }
}
