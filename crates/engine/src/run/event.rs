use bytes::Bytes;
use fumehood_gateway::Event as NetworkEvent;

use super::mime_bundle::MimeBundle;
use super::outcome::VmOrigin;
use crate::packages::PackageStep;

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A run that has a VM of its own has it now; until then it waited for room, packages and the VM's start.
    Ready {
        /// Where the VM came from.
        source: VmOrigin,
    },
    /// The program wrote to standard output; to its terminal, where it has one.
    Stdout(Bytes),
    /// The program wrote to standard error.
    Stderr(Bytes),
    /// The program shows a value. See [`RunRequest::display`].
    Result(MimeBundle),
    /// A program was started, or a run that waited for its context.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// A port of the guest is reached from this host. See [`Network::expose`].
    Exposed {
        /// Where.
        url: String,
    },
    /// Something is done for the run's packages, before its VM begins. See [`RunRequest::packages`].
    Packages(PackageStep),
    /// The program did something on its network, and it was decided on.
    Network(Box<NetworkEvent>),
    /// The run had been begun before, and is followed from this piece of output on.
    Attached {
        /// 0 = from the beginning; more than was asked for where that is not kept any more.
        from_seq: u64,
    },
}
