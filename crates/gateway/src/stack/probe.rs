//! Single steps of the stack for fuzzing, with the invariants that must hold after each.

use bytes::BytesMut;
use tokio::time::Instant;

use super::device::OUTBOX_BYTES;
use super::driver::TurnOutcome;
use super::frame::{ETHERNET_BYTES, LENGTH_BYTES};
use super::guest_stream::ORPHAN_TIMEOUT;
use super::network_stack::Stack;

impl Stack {
    /// Runs one turn; `None` if the bytes contain an invalid frame, after which the link is closed.
    pub(crate) fn step(&self, read: &mut BytesMut) -> Option<TurnOutcome> {
        let turn = self.turn(read, self.link().mtu + ETHERNET_BYTES).ok();
        self.assert_invariants();
        turn
    }

    /// Takes the outgoing frames.
    pub(crate) fn take_outbox(&self) -> BytesMut {
        self.lock().device.outbox.split()
    }

    /// Returns whether no connection is left in any state.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.tuples.is_empty() && state.orphans.is_empty()
    }

    fn assert_invariants(&self) {
        let state = self.lock();

        // Connections are bounded, and each has exactly one socket; one more is for DNS.
        let connections = state.tuples.len();
        assert!(
            connections <= state.max_connections,
            "{connections} connections"
        );
        let sockets = state.sockets.iter().count();
        assert_eq!(sockets, connections + 1, "a socket has no connection");

        // Orphans have a connection and a bounded time.
        for (at, (handle, deadline)) in state.orphans.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(left <= ORPHAN_TIMEOUT, "an orphan has {left:?} left");
            let is_known = state.tuples.values().any(|known| known == handle);
            let is_duplicate = state.orphans[..at].iter().any(|(other, _)| other == handle);
            assert!(
                is_known && !is_duplicate,
                "an orphan has no connection, or is listed twice"
            );
        }

        // The outbox is bounded, and no packet is left unprocessed.
        let max_bytes = OUTBOX_BYTES + LENGTH_BYTES + ETHERNET_BYTES + self.link().mtu;
        assert!(
            state.device.outbox.len() < max_bytes,
            "{} bytes wait for the guest",
            state.device.outbox.len()
        );
        assert!(
            state.device.incoming.is_none(),
            "a packet was not processed"
        );
    }
}
