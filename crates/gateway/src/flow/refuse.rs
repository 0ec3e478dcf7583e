//! Refuses connections, with an explanation where the client can show one.

use bytes::Bytes;

use super::context::ConnectionContext;
use super::first_bytes::{FirstBytes, read_first_bytes};
use crate::events::NetworkAction;
use crate::policy::{Decision, Host, HostName, PolicyQuery, Reason, Rule, Verdict, decide};
use crate::refusal::{Alert, Refusal, refuse_http, refuse_tls};
use crate::stack::GuestStream;
use crate::stream::{Replay, Stream};
use crate::tls::SniffResult;

/// Ports that clients of TLS or HTTP connect to. Their clients can show a refusal, which justifies an open connection.
const REFUSAL_PORTS: [u16; 6] = [80, 443, 3128, 8000, 8080, 8443];

impl ConnectionContext {
    /// Refuses a connection: with an explanation where its client can show one, elsewhere by a reset.
    pub(super) async fn refuse(&self, mut guest: GuestStream, decision: &Decision) {
        if self.can_show_refusal(guest.remote().port())
            && guest.accept().await
            && let Some((first_bytes, bytes)) = read_first_bytes(&mut guest).await
        {
            self.refuse_with_reply(guest, &first_bytes, bytes, decision)
                .await;
        }
    }

    /// Returns whether a client of this port may speak TLS or HTTP.
    fn can_show_refusal(&self, port: u16) -> bool {
        let has_port = |rule: &Rule| rule.ports.contains(port);
        REFUSAL_PORTS.contains(&port) || self.policy.rules.iter().any(has_port)
    }

    /// Refuses a connection to the gateway itself. The guest was sent here when it looked up a denied name; the
    /// connection's first bytes show which one.
    pub(super) async fn refuse_denied_name(&self, mut guest: GuestStream) {
        let port = guest.remote().port();
        if !self.can_show_refusal(port) {
            // A client that waits for the server to speak first would never get an answer.
            let decision = self.denial_for_gateway(&guest);
            return self
                .log
                .record_decision(NetworkAction::Connection, &self.policy, &decision);
        }

        if !guest.accept().await {
            return;
        }
        let Some((first_bytes, bytes)) = read_first_bytes(&mut guest).await else {
            return;
        };

        let name = match &first_bytes {
            FirstBytes::Received(SniffResult::Http { .. }) => host_of(&bytes),
            _ => first_bytes.server_name(),
        };
        let decision = match name {
            Some(name) => self.denial_for_name(&name, port),
            None => self.denial_for_gateway(&guest),
        };
        self.log
            .record_decision(NetworkAction::Connection, &self.policy, &decision);
        self.refuse_with_reply(guest, &first_bytes, bytes, &decision)
            .await;
    }

    fn denial_for_name(&self, name: &HostName, port: u16) -> Decision {
        let lookup = decide(&self.policy, &PolicyQuery::Lookup { name });
        let mut decision = match self.resolved_names.denial(name) {
            Some(denial) => denial,
            None if lookup.is_allowed() => Decision {
                rule: None,
                verdict: Verdict::Deny,
                reason: Reason::NotResolved,
                ..lookup
            },
            None => lookup,
        };
        decision.subject.port = Some(port);
        decision
    }

    fn denial_for_gateway(&self, guest: &GuestStream) -> Decision {
        let to = guest.remote();
        let query = PolicyQuery::Connect {
            address: to.ip(),
            port: to.port(),
            names: &[],
        };
        decide(&self.policy, &query)
    }

    /// Refuses a connection whose first bytes have been read.
    pub(super) async fn refuse_with_reply(
        &self,
        guest: impl Stream,
        first_bytes: &FirstBytes,
        bytes: Bytes,
        decision: &Decision,
    ) {
        let guest = Replay::new(bytes, guest);
        // Errors mean that the guest is gone and needs no explanation.
        let _ = match first_bytes {
            FirstBytes::Received(SniffResult::Tls(_)) => {
                refuse_tls(guest, alert(&decision.reason)).await
            }
            FirstBytes::Received(SniffResult::Http { .. }) => {
                let text = decision.refusal(&self.policy.name);
                let refusal = Refusal::new(decision.reason.code(), text);
                refuse_http(guest, &refusal).await
            }
            _ => Ok(()),
        };
    }
}

fn alert(reason: &Reason) -> Alert {
    match reason {
        Reason::NoServerName => Alert::UnrecognizedName,
        _ => Alert::AccessDenied,
    }
}

/// Returns the host that a request is for. The result is only good for a refusal: nothing is allowed by it.
fn host_of(bytes: &[u8]) -> Option<HostName> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then_some(value.trim())
    })?;
    let host = value.rsplit_once(':').map_or(value, |(host, _)| host);
    match host.parse().ok()? {
        Host::Name(name) => Some(name),
        Host::Address(_) => None,
    }
}
