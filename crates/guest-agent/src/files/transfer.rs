use std::os::fd::BorrowedFd;

use fumehood_protocol::{Done, OpId, Response};

use super::list::DirectoryListing;
use super::read::FileDownload;
use super::remove::TreeRemoval;
use super::step::Step;
use super::watch::DirectoryWatch;
use super::write::FileUpload;
use crate::agent::Agent;
use crate::transport::Outbox;

/// Work on files that takes several steps. It ends when its client disconnects.
#[derive(Debug)]
pub(crate) enum Transfer {
    Write(FileUpload),
    Read(FileDownload),
    List(DirectoryListing),
    Remove(TreeRemoval),
    Watch(DirectoryWatch),
}

impl Transfer {
    pub(crate) fn op_id(&self) -> Option<OpId> {
        match self {
            Self::Write(upload) => upload.op_id,
            Self::Read(download) => download.framing.op_id,
            Self::List(listing) => listing.op_id,
            Self::Remove(removal) => removal.op_id,
            Self::Watch(watch) => watch.op_id,
        }
    }

    /// The descriptor to poll, if the transfer waits for one.
    pub(crate) fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Watch(watch) => Some(watch.poll_fd()),
            _ => None,
        }
    }

    /// Whether a step can be done without a further event.
    pub(crate) fn has_work(&self) -> bool {
        match self {
            Self::Write(_) => false,
            Self::Watch(watch) => watch.has_work(),
            Self::Read(download) => download.has_work(),
            Self::List(_) | Self::Remove(_) => true,
        }
    }

    /// Lets this many more bytes be sent.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Self::Read(download) = self {
            download.add_credit(bytes);
        }
    }

    /// Ends the transfer. A partly written file is removed; it was not visible under its name.
    pub(crate) fn cancel(self, outbox: &mut Outbox) {
        let op_id = self.op_id();
        drop(self);
        outbox.answer(&Response::Done(Done { op_id }));
    }

    /// Does one step. Returns `None` if the transfer has ended.
    pub(crate) fn pump(mut self, outbox: &mut Outbox, agent: &Agent) -> Option<Self> {
        if outbox.is_full(&agent.settings.limits) {
            return Some(self);
        }

        let step = match &mut self {
            Self::Write(_) => Step::More,
            Self::Read(download) => download.step(outbox, agent),
            Self::List(listing) => listing.step(outbox, agent),
            Self::Remove(removal) => removal.step(outbox, agent),
            Self::Watch(watch) => watch.step(outbox, agent),
        };

        self.after_step(step, outbox)
    }

    /// Takes the next bytes of a file that is being written. Returns `None` if the transfer has ended.
    pub(crate) fn take(
        mut self,
        bytes: &[u8],
        eof: bool,
        outbox: &mut Outbox,
        agent: &Agent,
    ) -> Option<Self> {
        let Self::Write(upload) = &mut self else {
            return Some(self);
        };
        let step = upload.take(bytes, eof, outbox, agent);
        self.after_step(step, outbox)
    }

    fn after_step(self, step: Step, outbox: &mut Outbox) -> Option<Self> {
        match step {
            Step::More => Some(self),
            Step::Done => None,
            Step::Failed(error) => {
                outbox.push_error(self.op_id(), error);
                None
            }
        }
    }
}
