use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::context::{Way, World};
use super::first_bytes::{First, first_bytes};
use crate::events::NetworkAction;
use crate::policy::{Decision, Pass, Verdict, decide};
use crate::stack::{DNS_PORT, GuestStream};
use crate::stream::Rewound;

/// How long another host may take to answer a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

impl World {
    /// Decides on a connection that a guest opens, and sees it to its end.
    pub(crate) async fn serve(self: &Arc<Self>, guest: GuestStream) {
        let to = guest.remote();
        if self.names.refuser.has(to.ip()) {
            match to.port() {
                DNS_PORT => self.answer_names(guest).await,
                _ => self.refuse_by_name(guest).await,
            }
            return;
        }
        if !self.rate.take() {
            self.too_many(to);
            return;
        }
        let names = self.known.names(to.ip());
        let way = Way { to, names };
        let decision = decide(&self.policy, &way.connect());
        match decision.verdict {
            Verdict::Deny => {
                self.log
                    .decided(NetworkAction::Connection, &self.policy, &decision);
                self.refuse(guest, &decision).await;
            }
            Verdict::Allow(pass) => self.connect(guest, way, pass, decision).await,
        }
    }

    async fn connect(
        self: &Arc<Self>,
        guest: GuestStream,
        way: Way,
        pass: Pass,
        decision: Decision,
    ) {
        // The guest's own connection comes about when the other one has: a host that refuses, refuses.
        let upstream = tokio::time::timeout(CONNECT, TcpStream::connect(way.to)).await;
        let upstream = match upstream {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(error)) => return self.unreachable(&way, &decision, &error.to_string()),
            Err(_) => {
                let why = format!("no answer within {CONNECT:?}");
                return self.unreachable(&way, &decision, &why);
            }
        };
        let _ = upstream.set_nodelay(true);
        if !guest.accept().await {
            return;
        }
        match pass {
            Pass::Through => {
                self.log
                    .decided(NetworkAction::Connection, &self.policy, &decision);
                self.relay(guest, upstream, &decision).await;
            }
            Pass::Listen | Pass::Inspect | Pass::Terminate => {
                self.listen(guest, upstream, way).await;
            }
        }
    }

    /// Reads what the guest says first, and decides by that.
    async fn listen(self: &Arc<Self>, mut guest: GuestStream, upstream: TcpStream, way: Way) {
        let heard = tokio::select! {
            biased;
            heard = first_bytes(&mut guest) => heard,
            begun = first_of(&upstream) => match begun {
                // Its client waits for it to begin.
                true => Some((First::Nothing, Bytes::new())),
                false => {
                    let decision = decide(&self.policy, &way.connect());
                    return self.unreachable(&way, &decision, "it closed the connection at once");
                }
            },
        };
        let Some((first, bytes)) = heard else {
            return;
        };
        let server_name = first.server_name();
        let said = first.said(server_name.as_ref());
        let decision = decide(&self.policy, &way.speak(said));
        self.log
            .decided(NetworkAction::Connection, &self.policy, &decision);
        let pass = match decision.verdict {
            Verdict::Deny => return self.refuse_first(guest, &first, bytes, &decision).await,
            Verdict::Allow(pass) => pass,
        };
        let guest = Rewound::new(bytes, guest);
        match (pass, server_name) {
            (Pass::Inspect, _) => self.inspect(guest, upstream, way, &decision).await,
            (Pass::Terminate, Some(host)) => {
                self.terminate(guest, upstream, way, &decision, host).await;
            }
            // Only TLS that says a name is terminated.
            (Pass::Terminate, None) => {}
            (Pass::Through | Pass::Listen, _) => self.relay(guest, upstream, &decision).await,
        }
    }
}

/// Waits for a server that speaks before its client does; `false`: it is gone.
async fn first_of(upstream: &TcpStream) -> bool {
    matches!(upstream.peek(&mut [0; 1]).await, Ok(1))
}
