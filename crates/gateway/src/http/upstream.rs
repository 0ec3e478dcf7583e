//! The connection to the server. A connection of the guest has at most one at a time.

use std::io;

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::body::RequestBody;
use super::limits::{BUFFER_BYTES, MAX_HEAD_BYTES, MAX_HEADERS};
use super::proxy::Connector;
use crate::stream::UpstreamError;

/// Why a request has no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// The server does not answer. The guest receives a page.
    Upstream(UpstreamError),
    /// A reused connection was closed under the request. A guest that were connected to the server itself would see the
    /// same and could retry, so its connection is closed as well.
    ClosedWhileReused,
}

/// Opens connections to the server, and reuses the open one.
pub(super) struct Upstream {
    connect: Connector,
    sender: Option<SendRequest<RequestBody>>,
    /// The tasks that drive connections. Dropping them closes the connections.
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

    /// Sends a request on the open connection, or on a new one.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let Some(mut sender) = self.take_reusable().await else {
            return self.send_on_new(request).await;
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.sender = Some(sender);
                Ok(response)
            }
            // A request that hyper hands back was not sent, and may be sent on another connection.
            Err(mut error) => match error.take_message() {
                Some(request) => self.send_on_new(request).await,
                None => Err(SendError::ClosedWhileReused),
            },
        }
    }

    /// Takes the open connection, if it can be used again.
    async fn take_reusable(&mut self) -> Option<SendRequest<RequestBody>> {
        let mut sender = self.sender.take()?;
        sender.ready().await.ok().map(|()| sender)
    }

    async fn send_on_new(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let stream = (self.connect)().await.map_err(SendError::Upstream)?;
        let failed = |error| SendError::Upstream(UpstreamError::Failed(io::Error::other(error)));
        let (mut sender, driver) = Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;

        // The driver's result can be ignored: errors surface in the response or its body.
        self.drivers
            .spawn(async move { drop(driver.with_upgrades().await) });
        while self.drivers.try_join_next().is_some() {}

        let response = sender.send_request(request).await.map_err(failed)?;
        self.sender = Some(sender);
        Ok(response)
    }
}
