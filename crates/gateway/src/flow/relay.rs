use std::sync::Arc;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::context::World;
use crate::events::{Event, NetworkAction};
use crate::metering::{Count, Metered};
use crate::policy::Decision;
use crate::stream::Stream;

/// Bytes that are moved at a time, each way.
const PIECE_BYTES: usize = 128 * 1024;

impl World {
    /// Passes on what both sides say, until both have ended or one is gone.
    pub(super) async fn relay(
        &self,
        mut guest: impl Stream,
        upstream: TcpStream,
        decision: &Decision,
    ) {
        self.log.connected();
        let to = upstream.peer_addr().ok();
        let count = Arc::<Count>::default();
        let mut upstream = Metered::new(upstream, self.budget.clone(), count.clone());
        pass_both_ways(&mut guest, &mut upstream).await;
        let event = ended(&count, decision);
        self.log.add(match to {
            Some(to) => event.at(to),
            None => event,
        });
    }
}

/// Passes on what a guest and somebody else say, until both have ended or one is gone; `false`: one broke off.
pub(crate) async fn pass_both_ways(
    guest: &mut impl Stream,
    other: &mut Metered<TcpStream>,
) -> bool {
    let copied = copy_bidirectional_with_sizes(guest, other, PIECE_BYTES, PIECE_BYTES).await;
    if copied.is_err() {
        // Broken off, and not ended: the other must not take what it has for all there is.
        let _ = other.get_ref().set_zero_linger();
    }
    copied.is_ok()
}

/// What is told of a connection at its end.
pub(super) fn ended(count: &Count, decision: &Decision) -> Event {
    let (bytes_up, bytes_down) = count.read();
    let event = match count.spent() {
        None => Event::new(
            NetworkAction::End,
            true,
            "ended",
            "the connection has ended".into(),
        ),
        Some(spent) => Event::new(NetworkAction::End, false, "bytes", spent.to_string()),
    };
    Event {
        rule: decision.rule.clone(),
        name: decision.subject.name.clone(),
        bytes_up,
        bytes_down,
        ..event
    }
}
