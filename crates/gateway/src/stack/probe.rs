//! The stack by single steps, with what must hold after each of them.

use bytes::BytesMut;
use tokio::time::Instant;

use super::device::OUTBOX_BYTES;
use super::driver::Turn;
use super::frame::{ETHERNET_BYTES, LENGTH_BYTES};
use super::guest_stream::LINGER;
use super::network_stack::Stack;

impl Stack {
    /// One turn; `None`: what was read is no frame, and the wire is to be closed.
    pub(crate) fn step(&self, read: &mut BytesMut) -> Option<Turn> {
        let turn = self.turn(read, self.link().mtu + ETHERNET_BYTES).ok();
        self.check();
        turn
    }

    /// Takes what is to go out.
    pub(crate) fn take_out(&self) -> BytesMut {
        self.lock().cable.outbox.split()
    }

    /// Whether no connection is left, in whatever state.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.tuples.is_empty() && state.orphans.is_empty()
    }

    fn check(&self) {
        let state = self.lock();
        let connections = state.tuples.len();
        assert!(
            connections <= state.most_connections,
            "{connections} connections"
        );
        let sockets = state.sockets.iter().count();
        assert_eq!(sockets, connections + 1, "a socket belongs to nobody");
        for (at, (handle, until)) in state.orphans.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            assert!(left <= LINGER, "an orphan waits {left:?}");
            let known = state.tuples.values().any(|known| known == handle);
            let twice = state.orphans[..at].iter().any(|(other, _)| other == handle);
            assert!(known && !twice, "an orphan is forgotten, or there twice");
        }
        let most = OUTBOX_BYTES + LENGTH_BYTES + ETHERNET_BYTES + self.link().mtu;
        assert!(
            state.cable.outbox.len() < most,
            "{} bytes wait for the guest",
            state.cable.outbox.len()
        );
        assert!(state.cable.arrived.is_none(), "a packet was not looked at");
    }
}
