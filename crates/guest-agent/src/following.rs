use fumehood_protocol::{Limits, OpId};

use crate::journal::Pieces;
use crate::operation::Operation;
use crate::operations::ClientId;
use crate::outbox::Outbox;
use crate::output::Encoding;

/// How somebody wants to follow an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    pub(crate) op_id: Option<OpId>,
    pub(crate) encoding: Encoding,
    pub(crate) credit: Option<u64>,
    pub(crate) from_seq: u64,
}

/// Takes a piece's bytes off a credit, if that covers them.
pub(crate) fn pay(credit: &mut Option<u64>, bytes: usize) -> bool {
    match credit {
        None => true,
        Some(credit) => match credit.checked_sub(bytes as u64) {
            Some(rest) => {
                *credit = rest;
                true
            }
            None => false,
        },
    }
}

impl Operation {
    /// Somebody follows it from now on, from this piece of its output on.
    pub(crate) fn follow(&mut self, client: ClientId, follower: Follower, limits: &Limits) -> u64 {
        // What was gathered before is told again with the rest, and counts as that does.
        for output in &mut self.outputs {
            output.settle(&mut self.framing);
        }
        self.client = Some(client);
        self.framing.op_id = follower.op_id;
        self.framing.encoding = follower.encoding;
        self.credit = follower.credit;
        if let Some(input) = &mut self.input {
            input.renew(limits);
        }
        let first = self.framing.kept.as_ref().map_or(0, Pieces::first);
        let from = follower.from_seq.max(first);
        self.replay = Some(from);
        from
    }

    /// Nobody follows it any more: its output is kept, and does not wait.
    pub(crate) fn leave(&mut self) {
        self.client = None;
        self.credit = None;
        self.replay = None;
    }

    /// Sends what was said before. True: all of it.
    pub(crate) fn tell_again(&mut self, outbox: &mut Outbox, limits: &Limits) -> bool {
        while let (Some(seq), Some(kept)) = (self.replay, &self.framing.kept) {
            let Some((stream, bytes)) = kept.get(seq) else {
                self.replay = None;
                break;
            };
            if outbox.is_full(limits) || !pay(&mut self.credit, bytes.len()) {
                return false;
            }
            self.framing.send(*stream, seq, bytes.clone(), outbox);
            self.replay = Some(seq + 1);
        }
        true
    }
}
