//! Forwards bytes without reading them.

use std::sync::Arc;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::context::ConnectionContext;
use crate::events::{Event, NetworkAction};
use crate::metering::{ByteCounter, MeteredStream};
use crate::policy::Decision;
use crate::stream::Stream;

/// Size of the copy buffer in each direction, in bytes.
const BUFFER_BYTES: usize = 128 * 1024;

impl ConnectionContext {
    /// Forwards bytes in both directions until both sides have closed or one is gone.
    pub(super) async fn relay(
        &self,
        mut guest: impl Stream,
        upstream: TcpStream,
        decision: &Decision,
    ) {
        self.log.count_connection();
        let to = upstream.peer_addr().ok();
        let counter = Arc::<ByteCounter>::default();
        let mut upstream = MeteredStream::new(upstream, self.budget.clone(), counter.clone());

        relay_streams(&mut guest, &mut upstream).await;

        let event = end_event(&counter, decision);
        self.log.record(match to {
            Some(to) => event.at(to),
            None => event,
        });
    }
}

/// Forwards bytes in both directions until both sides have closed; returns `false` if one side broke off.
pub(crate) async fn relay_streams(
    guest: &mut impl Stream,
    other: &mut MeteredStream<TcpStream>,
) -> bool {
    let copied = copy_bidirectional_with_sizes(guest, other, BUFFER_BYTES, BUFFER_BYTES).await;
    if copied.is_err() {
        // The guest broke off: reset the connection, so that the peer does not take a part for the whole.
        let _ = other.get_ref().set_zero_linger();
    }
    copied.is_ok()
}

/// Returns the event for the end of a connection.
pub(super) fn end_event(counter: &ByteCounter, decision: &Decision) -> Event {
    let (bytes_up, bytes_down) = counter.totals();
    let event = match counter.exceeded() {
        None => Event::new(
            NetworkAction::End,
            true,
            "ended",
            "the connection ended".into(),
        ),
        Some(exceeded) => Event::new(NetworkAction::End, false, "bytes", exceeded.to_string()),
    };
    Event {
        rule: decision.rule.clone(),
        name: decision.subject.name.clone(),
        bytes_up,
        bytes_down,
        ..event
    }
}
