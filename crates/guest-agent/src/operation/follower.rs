use fumehood_protocol::{Limits, OpId};

use super::journal::OutputHistory;
use super::operation::Operation;
use crate::transport::{ClientId, Encoding, Outbox};

/// How a client attaches to an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    pub(crate) op_id: Option<OpId>,
    pub(crate) encoding: Encoding,
    pub(crate) credit: Option<u64>,
    /// The first piece of output that it wants.
    pub(crate) from_seq: u64,
}

/// Takes this many bytes off a credit. Returns `false` if the credit is too small.
pub(super) fn spend_credit(credit: &mut Option<u64>, bytes: usize) -> bool {
    let Some(left) = credit else {
        return true;
    };

    match left.checked_sub(bytes as u64) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

impl Operation {
    /// Attaches a client. Returns the number of the first piece of output that it gets.
    pub(crate) fn attach_client(
        &mut self,
        client: ClientId,
        follower: Follower,
        limits: &Limits,
    ) -> u64 {
        // Buffered output becomes a piece of the history, so that it is replayed and counted like the rest.
        for output in &mut self.outputs {
            output.flush_to_history(&mut self.framing);
        }

        self.client = Some(client);
        self.framing.op_id = follower.op_id;
        self.framing.encoding = follower.encoding;
        self.credit = follower.credit;

        if let Some(input) = &mut self.input {
            input.reset_credit(limits);
        }

        let history = self.framing.history.as_ref();
        let first = history.map_or(0, OutputHistory::first);
        let from = follower.from_seq.max(first);
        self.replay = Some(from);

        from
    }

    /// Detaches the client. Output is only recorded from now on, without flow control.
    pub(crate) fn detach(&mut self) {
        self.client = None;
        self.credit = None;
        self.replay = None;
    }

    /// Sends earlier output. Returns whether all of it was sent.
    pub(super) fn send_replay(&mut self, outbox: &mut Outbox, limits: &Limits) -> bool {
        while let (Some(seq), Some(history)) = (self.replay, &self.framing.history) {
            let Some((stream, bytes)) = history.get(seq) else {
                self.replay = None;
                break;
            };

            if outbox.is_full(limits) || !spend_credit(&mut self.credit, bytes.len()) {
                return false;
            }

            self.framing.send(*stream, seq, bytes.clone(), outbox);
            self.replay = Some(seq + 1);
        }

        true
    }
}
