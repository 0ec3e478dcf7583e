use std::os::fd::BorrowedFd;

use fumehood_protocol::{Limits, OpId, WireError};

use crate::agent::Agent;
use crate::outbox::Outbox;

use super::list::Listing;
use super::read::Reading;
use super::remove::Removal;
use super::watch::Watching;
use super::write::Writing;

/// Work with files that takes more than a moment. It goes with its client.
#[derive(Debug)]
pub(crate) enum Transfer {
    Write(Writing),
    Read(Reading),
    List(Listing),
    Remove(Removal),
    Watch(Watching),
}

/// How far a piece of work has come.
#[derive(Debug)]
pub(super) enum Step {
    /// There is more to do.
    More,
    /// It was answered.
    Done,
    /// It ends by this.
    Failed(WireError),
}

impl Transfer {
    pub(crate) fn op_id(&self) -> Option<OpId> {
        match self {
            Self::Write(writing) => writing.op_id,
            Self::Read(reading) => reading.framing.op_id,
            Self::List(listing) => listing.op_id,
            Self::Remove(removal) => removal.op_id,
            Self::Watch(watching) => watching.op_id,
        }
    }

    /// What to wait for.
    pub(crate) fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Watch(watching) => Some(watching.awaited()),
            _ => None,
        }
    }

    /// Something can be done without waiting for anybody.
    pub(crate) fn has_work(&self) -> bool {
        match self {
            Self::Write(_) => false,
            Self::Watch(watching) => watching.has_work(),
            Self::Read(reading) => reading.has_work(),
            Self::List(_) | Self::Remove(_) => true,
        }
    }

    /// Lets this many more bytes pass.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Self::Read(reading) = self {
            reading.add_credit(bytes);
        }
    }

    /// Ends it. What was half-written is removed, as nobody has seen it.
    pub(crate) fn cancel(self, outbox: &mut Outbox) {
        let op_id = self.op_id();
        drop(self);
        let done = fumehood_protocol::Done { op_id };
        outbox.answer(&fumehood_protocol::Response::Done(done));
    }

    /// Does some of it. `None`: it has ended.
    pub(crate) fn pump(mut self, outbox: &mut Outbox, agent: &Agent) -> Option<Self> {
        if outbox.is_full(&agent.settings.limits) {
            return Some(self);
        }
        let step = match &mut self {
            Self::Write(_) => Step::More,
            Self::Read(reading) => reading.step(outbox, agent),
            Self::List(listing) => listing.step(outbox, agent),
            Self::Remove(removal) => removal.step(outbox, agent),
            Self::Watch(watching) => watching.step(outbox, agent),
        };
        match step {
            Step::More => Some(self),
            Step::Done => None,
            Step::Failed(error) => {
                outbox.refuse(self.op_id(), error);
                None
            }
        }
    }

    /// Takes a piece of what is to be written. `None`: it has ended.
    pub(crate) fn take(
        mut self,
        bytes: &[u8],
        eof: bool,
        outbox: &mut Outbox,
        agent: &Agent,
    ) -> Option<Self> {
        let Self::Write(writing) = &mut self else {
            return Some(self);
        };
        match writing.take(bytes, eof, outbox, agent) {
            Step::More => Some(self),
            Step::Done => None,
            Step::Failed(error) => {
                outbox.refuse(self.op_id(), error);
                None
            }
        }
    }
}

/// The least that a chunk must be read in, in bytes.
pub(super) fn chunk_bytes(limits: &Limits) -> usize {
    usize::try_from(limits.chunk_bytes).unwrap_or(65_536)
}
