use std::time::Duration;

use fumehood_protocol::{EndedBy, Evidence, StreamSummary};

use crate::host::{Accelerator, Isolation};
use crate::network::NetworkOutcome;

/// Where a run's VM came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VmOrigin {
    /// A VM that waited, restored and exercised.
    Hot,
    /// A QEMU that waited, restored for this run from a template.
    Blank,
    /// A QEMU started and restored for this run from a template.
    Template,
    /// A boot for this run.
    Boot,
    /// A state that [`Sandbox::checkpoint`](crate::Sandbox::checkpoint) or
    /// [`Sandbox::fork`](crate::Sandbox::fork) took.
    Checkpoint,
}

impl VmOrigin {
    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Blank => "blank",
            Self::Template => "template",
            Self::Boot => "boot",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for room on this host.
    pub queue: Duration,
    /// From asking for a VM to its agent's word that it is ready: a boot, a restore, or next to nothing.
    pub start: Duration,
    /// From the agent's word to the code being sent.
    pub connect: Duration,
    /// From sending the code to the interpreter being ready, as the guest tells.
    pub spawn: Duration,
    /// From sending the code to the first byte of output; none = there was no output.
    pub first_output: Option<Duration>,
    /// From sending the code to its end.
    pub execute: Duration,
    /// Ending the VM.
    pub teardown: Duration,
    /// All of it.
    pub total: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the program exited with; 128 + signal when a signal ended it; 124 on timeout, 130 when
    /// cancelled, 137 when out of memory; none when the VM was lost.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// What shows that, with CPU time and peak memory.
    pub evidence: Evidence,
    /// What the program wrote to standard output: bytes and checksum, verified on the way.
    pub stdout: StreamSummary,
    /// The same of standard error.
    pub stderr: StreamSummary,
    /// Where the VM came from.
    pub source: VmOrigin,
    /// What executed the guest's instructions.
    pub accelerator: Accelerator,
    /// Which walls stood around its VM; none: no VM was started.
    pub isolation: Option<Isolation>,
    /// Where the time went.
    pub timing: Timing,
    /// What its guest did on its network; none: it had none, or one of its sandbox's.
    pub network: Option<NetworkOutcome>,
}
