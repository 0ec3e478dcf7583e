//! The public description of sandboxes.

use fumehood_engine::{InstalledPackage, Isolation, Language, VmOrigin};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::program::ProgramResponse;
use super::requests::{LifetimeCounts, OnIdle};
use super::timestamp::format_timestamp;

/// The state of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// The sandbox is running.
    Running,
    /// Its state is being saved.
    Pausing,
    /// Its state is on disk. The next call that needs its VM resumes it.
    Paused,
    /// Its VM is being restored.
    Resuming,
    /// The sandbox has ended.
    Ended,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxResponse {
    /// The id.
    pub id: String,
    /// The name that may be used in place of the id.
    pub name: Option<String>,
    /// The language that the sandbox was started for; null if the request named none. A sandbox that was started from
    /// a checkpoint or by a fork has that of its origin.
    #[schema(value_type = Option<String>)]
    pub language: Option<Language>,
    /// The state.
    pub state: SandboxState,
    /// When the sandbox was started.
    pub created_at: String,
    /// When the sandbox ended; null before.
    pub ended_at: Option<String>,
    /// Why the sandbox ended: `requested`, `idle`, `lifetime`, `expired`, `lost`, `key_revoked`, `operator`, `server_stopped`
    /// or `server_lost`.
    pub ended: Option<String>,
    /// Why the sandbox ended, as a sentence.
    pub ended_why: Option<String>,
    /// The memory in MiB.
    pub memory_mib: u32,
    /// When the state of a paused sandbox was saved; null if it is not paused.
    #[serde(default)]
    pub paused_at: Option<String>,
    /// How many bytes the state of a paused sandbox takes on disk; null if it is not paused.
    #[serde(default)]
    pub state_bytes: Option<u64>,
    /// The checkpoint from which the server continued the sandbox after it was killed; null if that did not happen.
    #[serde(default)]
    pub resumed_from: Option<ResumedFrom>,
    /// The sandbox is paused, or ends, after this many seconds without work.
    pub idle_timeout_s: u64,
    /// What happens after the idle timeout.
    #[serde(default = "ended_when_idle")]
    pub on_idle: OnIdle,
    /// The sandbox ends once it has existed for this many seconds.
    pub max_lifetime_s: u64,
    /// Whether the time in which the sandbox is paused counts for `max_lifetime_s`.
    #[serde(default)]
    pub lifetime_counts: LifetimeCounts,
    /// How often the server saves the running sandbox, in seconds; null = not at all.
    #[serde(default)]
    pub checkpoint_every_s: Option<u64>,
    /// The origin of the VM.
    pub source: VmOrigin,
    /// `full`, or an object with the isolation layers that are missing.
    pub isolation: Isolation,
    /// The URLs of the exposed ports.
    pub urls: Vec<String>,
    /// The packages that the request for the sandbox named, with their resolved versions.
    #[serde(default)]
    pub packages: Vec<InstalledPackage>,
    /// In a sandbox that was started by a fork or from a checkpoint: the programs that were running in its origin and
    /// continue in each copy, at most 32. The copies may draw the same random numbers unless they ask the kernel.
    #[serde(default)]
    pub inherited_programs: Vec<ProgramResponse>,
    /// The number of all these programs.
    #[serde(default)]
    pub inherited_program_count: u64,
}

impl SandboxState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Ended => "ended",
        }
    }
}

/// What records without the field mean.
fn ended_when_idle() -> OnIdle {
    OnIdle::End
}

/// A checkpoint from which a sandbox continued after its server was killed. Later changes of the sandbox are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResumedFrom {
    /// When the checkpoint was saved.
    pub saved_at: String,
    /// How old it was when the sandbox continued, in seconds.
    pub age_s: u64,
}

impl ResumedFrom {
    /// Creates that of a sandbox that continues now.
    pub(crate) fn now(saved_at: Timestamp) -> Self {
        let age = Timestamp::now().duration_since(saved_at).as_secs();
        Self {
            saved_at: format_timestamp(saved_at),
            age_s: u64::try_from(age).unwrap_or(0),
        }
    }
}

impl SandboxResponse {
    /// Creates the description of a sandbox that is started, without anything about its VM.
    pub(crate) fn starting(id: &str, created_at: String) -> Self {
        Self {
            id: id.to_owned(),
            name: None,
            language: None,
            state: SandboxState::Running,
            created_at,
            ended_at: None,
            ended: None,
            ended_why: None,
            paused_at: None,
            state_bytes: None,
            resumed_from: None,
            memory_mib: 0,
            idle_timeout_s: 0,
            on_idle: OnIdle::End,
            max_lifetime_s: 0,
            lifetime_counts: LifetimeCounts::Running,
            checkpoint_every_s: None,
            source: VmOrigin::Checkpoint,
            isolation: Isolation::Full,
            urls: Vec::new(),
            packages: Vec::new(),
            inherited_programs: Vec::new(),
            inherited_program_count: 0,
        }
    }
}

/// A list of sandboxes, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SandboxListResponse {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxResponse>,
}

/// A running sandbox with its owner, as an operator sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OwnedSandboxResponse {
    /// The id of the owner: of its key, or `local`.
    pub owner: String,
    /// The name of the owner's key.
    pub key: Option<String>,
    /// The sandbox.
    pub sandbox: SandboxResponse,
}

/// The running sandboxes of all owners, the oldest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct OwnedSandboxListResponse {
    /// The sandboxes.
    pub sandboxes: Vec<OwnedSandboxResponse>,
}
