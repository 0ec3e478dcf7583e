//! Decides on a connection and connects it to its destination.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::context::{ConnectionContext, Destination};
use super::first_bytes::{FirstBytes, read_first_bytes};
use crate::events::NetworkAction;
use crate::policy::{Decision, Handling, Verdict, decide};
use crate::stack::{DNS_PORT, GuestStream};
use crate::stream::Replay;

/// Deadline for a destination to answer a new connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl ConnectionContext {
    /// Decides on a connection that the guest opens, and serves it until it ends.
    pub(crate) async fn serve(self: &Arc<Self>, guest: GuestStream) {
        let to = guest.remote();

        // Connections to the gateway itself are DNS over TCP, or were sent here because their name is denied.
        if self.name_server.gateway.has(to.ip()) {
            match to.port() {
                DNS_PORT => self.serve_dns_over_tcp(guest).await,
                _ => self.refuse_denied_name(guest).await,
            }
            return;
        }

        if !self.rate.try_acquire() {
            self.record_rate_limit(to);
            return;
        }

        let names = self.resolved_names.names_of(to.ip());
        let destination = Destination { to, names };
        let decision = decide(&self.policy, &destination.connect_query());
        match decision.verdict {
            Verdict::Deny => {
                self.log
                    .record_decision(NetworkAction::Connection, &self.policy, &decision);
                self.refuse(guest, &decision).await;
            }
            Verdict::Allow(handling) => self.connect(guest, destination, handling, decision).await,
        }
    }

    async fn connect(
        self: &Arc<Self>,
        guest: GuestStream,
        destination: Destination,
        handling: Handling,
        decision: Decision,
    ) {
        // The slot is held until the connection ends.
        let _slot = match self.connections.open_one() {
            Ok(slot) => slot,
            Err(error) => return self.record_exhausted(destination.to, error),
        };

        // The guest's connection is accepted only after this one: if the destination refuses, so does the gateway.
        let connecting = TcpStream::connect(destination.to);
        let upstream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(error)) => {
                return self.record_unreachable(&destination, &decision, &error.to_string());
            }
            Err(_) => {
                let reason = format!("no answer within {CONNECT_TIMEOUT:?}");
                return self.record_unreachable(&destination, &decision, &reason);
            }
        };
        let _ = upstream.set_nodelay(true);

        if !guest.accept().await {
            return;
        }

        match handling {
            Handling::Forward => {
                self.log
                    .record_decision(NetworkAction::Connection, &self.policy, &decision);
                self.relay(guest, upstream, &decision).await;
            }
            Handling::InspectFirstBytes | Handling::InspectRequests | Handling::TerminateTls => {
                self.inspect_first_bytes(guest, upstream, destination).await;
            }
        }
    }

    /// Reads the guest's first bytes and decides by them.
    async fn inspect_first_bytes(
        self: &Arc<Self>,
        mut guest: GuestStream,
        upstream: TcpStream,
        destination: Destination,
    ) {
        // The server may speak first. Then its client waits for it, and sends nothing to decide by.
        let received = tokio::select! {
            biased;
            received = read_first_bytes(&mut guest) => received,
            server_spoke = server_speaks_first(&upstream) => {
                if !server_spoke {
                    let decision = decide(&self.policy, &destination.connect_query());
                    let reason = "it closed the connection at once";
                    return self.record_unreachable(&destination, &decision, reason);
                }
                Some((FirstBytes::Silent, Bytes::new()))
            },
        };
        let Some((first_bytes, bytes)) = received else {
            return;
        };

        let server_name = first_bytes.server_name();
        let protocol = first_bytes.client_protocol(server_name.as_ref());
        let decision = decide(&self.policy, &destination.first_bytes_query(protocol));
        self.log
            .record_decision(NetworkAction::Connection, &self.policy, &decision);

        let handling = match decision.verdict {
            Verdict::Allow(handling) => handling,
            Verdict::Deny => {
                return self
                    .refuse_with_reply(guest, &first_bytes, bytes, &decision)
                    .await;
            }
        };
        let guest = Replay::new(bytes, guest);
        match (handling, server_name) {
            (Handling::InspectRequests, _) => {
                self.inspect(guest, upstream, destination, &decision).await;
            }
            (Handling::TerminateTls, Some(host)) => {
                self.terminate(guest, upstream, destination, &decision, host)
                    .await;
            }
            // TLS without a server name is never terminated.
            (Handling::TerminateTls, None) => {}
            (Handling::Forward | Handling::InspectFirstBytes, _) => {
                self.relay(guest, upstream, &decision).await;
            }
        }
    }
}

/// Waits for the server's first byte; returns `false` if the server closes the connection instead.
async fn server_speaks_first(upstream: &TcpStream) -> bool {
    matches!(upstream.peek(&mut [0; 1]).await, Ok(1))
}
