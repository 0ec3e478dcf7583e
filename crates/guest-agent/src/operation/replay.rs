use std::rc::Rc;

use fumehood_protocol::{Complete, Limits, OpId, Response};

use super::follower::{Follower, spend_credit};
use super::journal::CompletedOperation;
use super::output::Framing;
use crate::transport::Outbox;

/// Sends the recorded output and end of an operation that has ended to a client that has attached to it.
#[derive(Debug)]
pub(crate) struct Replay {
    record: Rc<CompletedOperation>,
    framing: Framing,
    credit: Option<u64>,
    is_done: bool,
}

impl Replay {
    /// Starts a replay for this follower. [`seq`](Self::seq) is the number of its first piece.
    pub(crate) fn new(record: Rc<CompletedOperation>, follower: Follower) -> Self {
        let seq = follower.from_seq.max(record.history.first());
        Self {
            record,
            framing: Framing {
                op_id: follower.op_id,
                encoding: follower.encoding,
                seq,
                history: None,
            },
            credit: follower.credit,
            is_done: false,
        }
    }

    pub(crate) fn op_id(&self) -> Option<OpId> {
        self.framing.op_id
    }

    /// The number of the next piece.
    pub(crate) fn seq(&self) -> u64 {
        self.framing.seq
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Lets this many more bytes be sent.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Skips the output that was not sent yet.
    pub(crate) fn cancel(&mut self) {
        self.framing.seq = self.record.history.end();
    }

    /// Whether something can be sent now.
    pub(crate) fn has_work(&self) -> bool {
        let next = self.record.history.get(self.framing.seq);
        let bytes = next.map_or(0, |(_, bytes)| bytes.len() as u64);
        self.credit.is_none_or(|credit| credit >= bytes)
    }

    /// Sends as much as the client accepts, and `complete` at the end.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox, limits: &Limits) {
        while let Some((stream, bytes)) = self.record.history.get(self.framing.seq) {
            if outbox.is_full(limits) || !spend_credit(&mut self.credit, bytes.len()) {
                return;
            }
            let seq = self.framing.seq;
            self.framing.send(*stream, seq, bytes.clone(), outbox);
            self.framing.seq += 1;
        }

        if !self.is_done {
            self.is_done = true;
            outbox.answer(&Response::Complete(Complete {
                op_id: self.framing.op_id,
                ..self.record.complete.clone()
            }));
        }
    }
}
