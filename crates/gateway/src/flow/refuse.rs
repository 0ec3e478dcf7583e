use bytes::Bytes;

use super::context::World;
use super::first_bytes::{First, first_bytes};
use crate::events::NetworkAction;
use crate::policy::{Decision, Host, HostName, Question, Reason, decide};
use crate::refusal::{Alert, Refusal, refuse_http, refuse_tls};
use crate::stack::GuestStream;
use crate::stream::{Rewound, Stream};
use crate::tls::Sniffed;

/// Where clients of TLS or HTTP connect to: there a refusal can be read, and is worth an open connection.
const WORDED_PORTS: [u16; 6] = [80, 443, 3128, 8000, 8080, 8443];

impl World {
    /// Refuses a connection: in words where its client can read them, by a reset elsewhere.
    pub(super) async fn refuse(&self, mut guest: GuestStream, decision: &Decision) {
        if self.is_worded(guest.remote().port())
            && guest.accept().await
            && let Some((first, bytes)) = first_bytes(&mut guest).await
        {
            self.refuse_first(guest, &first, bytes, decision).await;
        }
    }

    /// Whether a client of this port may be one that reads words.
    fn is_worded(&self, port: u16) -> bool {
        let named = |rule: &crate::policy::Rule| rule.ports.contains(port);
        WORDED_PORTS.contains(&port) || self.policy.rules.iter().any(named)
    }

    /// Refuses a connection to the gateway itself: its guest was sent here when it asked for a name that it
    /// may not reach. Which one it was is in what it says.
    pub(super) async fn refuse_by_name(&self, mut guest: GuestStream) {
        let port = guest.remote().port();
        if !self.is_worded(port) {
            // Who waits there for the other side to begin would wait in vain.
            let decision = self.why_not_here(&guest);
            return self
                .log
                .decided(NetworkAction::Connection, &self.policy, &decision);
        }
        if !guest.accept().await {
            return;
        }
        let Some((first, bytes)) = first_bytes(&mut guest).await else {
            return;
        };
        let name = match &first {
            First::Said(Sniffed::Http { .. }) => host_of(&bytes),
            _ => first.server_name(),
        };
        let decision = match name {
            Some(name) => self.why_not(&name, port),
            None => self.why_not_here(&guest),
        };
        self.log
            .decided(NetworkAction::Connection, &self.policy, &decision);
        self.refuse_first(guest, &first, bytes, &decision).await;
    }

    fn why_not(&self, name: &HostName, port: u16) -> Decision {
        let denied = decide(&self.policy, &Question::Lookup { name });
        let mut decision = match self.known.refusal(name) {
            Some(refusal) => refusal,
            None if denied.is_allowed() => Decision {
                rule: None,
                verdict: crate::policy::Verdict::Deny,
                reason: Reason::NotResolved,
                ..denied
            },
            None => denied,
        };
        decision.subject.port = Some(port);
        decision
    }

    fn why_not_here(&self, guest: &GuestStream) -> Decision {
        let to = guest.remote();
        let question = Question::Connect {
            address: to.ip(),
            port: to.port(),
            names: &[],
        };
        decide(&self.policy, &question)
    }

    /// Refuses what has begun to speak.
    pub(super) async fn refuse_first(
        &self,
        guest: impl Stream,
        first: &First,
        bytes: Bytes,
        decision: &Decision,
    ) {
        let guest = Rewound::new(bytes, guest);
        // A guest that is gone need not be told.
        let _ = match first {
            First::Said(Sniffed::Tls(_)) => refuse_tls(guest, alert(&decision.reason)).await,
            First::Said(Sniffed::Http { .. }) => {
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

/// The host that a request is for, for a refusal alone.
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
