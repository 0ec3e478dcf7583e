use std::rc::Rc;

use fumehood_protocol::{Complete, Limits, OpId, Response};

use crate::following::{Follower, pay};
use crate::journal::Record;
use crate::outbox::Outbox;
use crate::output::Framing;

/// What an operation that has ended said, told once more.
#[derive(Debug)]
pub(crate) struct Replay {
    record: Rc<Record>,
    framing: Framing,
    credit: Option<u64>,
    is_done: bool,
}

impl Replay {
    /// Tells it to this follower. Begins with the piece that [`seq`](Self::seq) names.
    pub(crate) fn new(record: Rc<Record>, follower: Follower) -> Self {
        let seq = follower.from_seq.max(record.pieces.first());
        Self {
            record,
            framing: Framing {
                op_id: follower.op_id,
                encoding: follower.encoding,
                seq,
                kept: None,
            },
            credit: follower.credit,
            is_done: false,
        }
    }

    pub(crate) fn op_id(&self) -> Option<OpId> {
        self.framing.op_id
    }

    /// The next piece.
    pub(crate) fn seq(&self) -> u64 {
        self.framing.seq
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Lets this many more bytes pass.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Nobody wants the rest.
    pub(crate) fn cancel(&mut self) {
        self.framing.seq = self.record.pieces.end();
    }

    /// Something can be told now.
    pub(crate) fn has_work(&self) -> bool {
        let next = self.record.pieces.get(self.framing.seq);
        let bytes = next.map_or(0, |(_, bytes)| bytes.len() as u64);
        self.credit.is_none_or(|credit| credit >= bytes)
    }

    /// Tells what the client takes now.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox, limits: &Limits) {
        while let Some((stream, bytes)) = self.record.pieces.get(self.framing.seq) {
            if outbox.is_full(limits) || !pay(&mut self.credit, bytes.len()) {
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
