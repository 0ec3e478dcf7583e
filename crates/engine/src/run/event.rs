use bytes::Bytes;
use fumehood_gateway::Event as NetworkEvent;

use super::mime_bundle::MimeBundle;
use super::outcome::VmOrigin;
use crate::packages::{InstalledPackage, PackageStep};

/// An event of a run in progress.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The VM of a one-shot run is ready; before that, the run waited for capacity, packages and the VM's start.
    Ready {
        /// Where the VM came from.
        source: VmOrigin,
    },
    /// The program wrote to standard output, or to its terminal if it has one.
    Stdout(Bytes),
    /// The program wrote to standard error.
    Stderr(Bytes),
    /// The program displayed a value. See [`RunRequest::display`](crate::RunRequest::display).
    Result(MimeBundle),
    /// A program was started, or a run that had waited for its context.
    Started {
        /// Its process id in the guest.
        pid: i32,
    },
    /// A port of the guest can be reached from this host. See [`Network::expose`](crate::Network::expose).
    Exposed {
        /// Its URL.
        url: String,
    },
    /// Packages of the run are being prepared before its VM starts. See [`RunRequest::packages`](crate::RunRequest::packages).
    Packages(PackageStep),
    /// The packages of the run are installed.
    PackagesReady {
        /// The packages that the request names.
        packages: Vec<InstalledPackage>,
        /// Whether the request names a package without a version.
        unpinned: bool,
    },
    /// The program used its network, and the policy decided on it.
    Network(Box<NetworkEvent>),
    /// The program of a run with downloads has ended, and the downloads start. From now on,
    /// [`RunControl::cancel`](crate::RunControl::cancel) stops them.
    ProgramEnded,
    /// The run had been started before, and is followed from this piece of output on.
    Attached {
        /// 0 = from the first piece; greater than requested if older output is no longer stored.
        from_seq: u64,
    },
}
