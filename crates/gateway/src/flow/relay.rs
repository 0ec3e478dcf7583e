use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::{World, at};
use crate::budget::{Count, Metered, Spent};
use crate::event::{Event, What};
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
        let mut upstream = Metered::new(upstream, self.budget.clone());
        let count = upstream.count();
        let moved =
            copy_bidirectional_with_sizes(&mut guest, &mut upstream, PIECE_BYTES, PIECE_BYTES);
        let error = moved.await.err();
        let spent = error.and_then(|error| error.into_inner()?.downcast::<Spent>().ok());
        let event = ended(&count, spent.as_deref().copied(), decision);
        self.log.add(match to {
            Some(to) => at(to, event),
            None => event,
        });
    }
}

fn ended(count: &Count, spent: Option<Spent>, decision: &Decision) -> Event {
    let (bytes_up, bytes_down) = count.read();
    let event = match spent {
        None => Event::new(What::End, true, "ended", "the connection has ended".into()),
        Some(spent) => Event::new(What::End, false, "bytes", spent.to_string()),
    };
    Event {
        rule: decision.rule.clone(),
        name: decision.subject.name.clone(),
        bytes_up,
        bytes_down,
        ..event
    }
}
