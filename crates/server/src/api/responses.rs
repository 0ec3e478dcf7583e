//! The objects that callers receive, as JSON.

use fumehood_engine::InstalledPackage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiErrorKind, RetryAdvice};

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// The run waits for a VM.
    Queued,
    /// The run is active.
    Running,
    /// The run has ended and has an outcome.
    Ended,
    /// The run has failed and has no outcome.
    Failed,
}

impl RunState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    /// Whether the run has ended or failed.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

/// What a run runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Code.
    Code,
    /// A program.
    Process,
}

/// Why a run has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunError {
    /// The kind, as in an error response.
    pub kind: ApiErrorKind,
    /// Whether a retry can help, as in an error response.
    pub retry: RetryAdvice,
    /// The message for people.
    pub message: String,
}

/// Where the time of a run went, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TimingView {
    /// Waiting for room.
    pub queue_ms: f64,
    /// The VM's start.
    pub start_ms: f64,
    /// Until the code was sent.
    pub connect_ms: f64,
    /// Until the interpreter was ready.
    pub spawn_ms: f64,
    /// Until the first output, if there was any.
    pub first_output_ms: Option<f64>,
    /// Until the end of the code.
    pub execute_ms: f64,
    /// Ending the VM.
    pub teardown_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// How a run ended. All is null until it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OutcomeView {
    /// The exit code.
    pub exit_code: Option<i32>,
    /// `exited`, `signaled`, `timeout`, `cancelled`, `out_of_memory`, `output_limit`, `agent_lost`, `server_lost`.
    pub ended_by: Option<String>,
    /// What shows that.
    pub evidence: Option<Value>,
    /// Where its VM came from.
    pub source: Option<String>,
    /// What executed its instructions.
    pub accelerator: Option<String>,
    /// `full`, or an object with the walls that were missing.
    pub isolation: Option<Value>,
    /// Where the time went.
    pub timing: Option<TimingView>,
    /// What it did on its network.
    pub network: Option<Value>,
}

/// The output of a run, as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunOutput {
    /// The standard output.
    #[schema(required = false)]
    pub stdout: String,
    /// `utf-8`, or `base64` if the output is not UTF-8.
    #[schema(required = false)]
    pub stdout_encoding: String,
    /// How many bytes the program wrote.
    #[schema(required = false)]
    pub stdout_bytes: u64,
    /// Whether the program wrote more than is kept.
    #[schema(required = false)]
    pub stdout_truncated: bool,
    /// The standard error.
    #[schema(required = false)]
    pub stderr: String,
    /// As for standard output.
    #[schema(required = false)]
    pub stderr_encoding: String,
    /// As for standard output.
    #[schema(required = false)]
    pub stderr_bytes: u64,
    /// As for standard output.
    #[schema(required = false)]
    pub stderr_truncated: bool,
    /// The values: objects that map MIME types to data.
    #[schema(required = false)]
    pub results: Vec<Value>,
    /// Whether the code displayed more values than are kept.
    #[schema(required = false)]
    pub results_truncated: bool,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunResponse {
    /// The id.
    pub id: String,
    /// The id of the sandbox that the run is in; null for a run with its own VM.
    pub sandbox: Option<String>,
    /// What the run runs.
    pub kind: RunKind,
    /// The state.
    pub state: RunState,
    /// When the run was started.
    pub created_at: String,
    /// When the run ended; null before.
    pub ended_at: Option<String>,
    /// How the run ended.
    #[serde(flatten)]
    pub outcome: OutcomeView,
    /// The output. It is left out of lists, and once it is no longer kept.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = RunOutput)]
    pub output: Option<RunOutput>,
    /// Why the run has no outcome; null if it has one, or has not ended.
    pub error: Option<RunError>,
}

impl RunResponse {
    /// Returns the error of a failed run, as a response reports it.
    pub(crate) fn failure(&self) -> Option<ApiError> {
        let RunError {
            kind,
            retry,
            message,
        } = self.error.as_ref()?;
        Some(ApiError {
            run: Some(self.id.as_str().into()),
            ..ApiError::new(*kind, &**message).with_retry(*retry)
        })
    }
}

impl From<&ApiError> for RunError {
    fn from(error: &ApiError) -> Self {
        Self {
            kind: error.kind,
            retry: error.retry,
            message: error.message.clone(),
        }
    }
}

/// A list of runs, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RunListResponse {
    /// The runs, without their outputs.
    pub runs: Vec<RunResponse>,
}

/// The state of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// The sandbox is running.
    Running,
    /// The sandbox has ended.
    Ended,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxResponse {
    /// The id.
    pub id: String,
    /// The name for people.
    pub name: Option<String>,
    /// The state.
    pub state: SandboxState,
    /// When the sandbox was started.
    pub created_at: String,
    /// When the sandbox ended; null before.
    pub ended_at: Option<String>,
    /// Why the sandbox ended: `requested`, `idle`, `lifetime`, `lost`, `server_stopped` or `server_lost`.
    pub ended: Option<String>,
    /// Why the sandbox ended, as a sentence.
    pub ended_why: Option<String>,
    /// The memory in MiB.
    pub memory_mib: u32,
    /// The sandbox ends after this many seconds without a request.
    pub idle_timeout_s: u64,
    /// The sandbox ends this many seconds after its start.
    pub max_lifetime_s: u64,
    /// The origin of the VM: `hot`, `standby`, `template`, `boot` or `checkpoint`.
    pub source: String,
    /// `full`, or an object with the isolation layers that are missing.
    pub isolation: Value,
    /// The URLs of the exposed ports.
    pub urls: Vec<String>,
}

/// A list of sandboxes, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SandboxListResponse {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxResponse>,
}

/// A checkpoint: the saved state of a sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CheckpointResponse {
    /// The id.
    pub id: String,
    /// The id of the sandbox whose state was saved.
    pub sandbox: String,
    /// The host memory that the checkpoint takes, in bytes.
    pub bytes: u64,
    /// When the state was saved.
    pub created_at: String,
}

/// A list of checkpoints, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CheckpointListResponse {
    /// The checkpoints.
    pub checkpoints: Vec<CheckpointResponse>,
}

/// A package that is installed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PackageView {
    /// The name.
    pub name: String,
    /// The version.
    pub version: String,
}

impl From<InstalledPackage> for PackageView {
    fn from(InstalledPackage { name, version }: InstalledPackage) -> Self {
        Self { name, version }
    }
}

/// The packages that are installed in a sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InstallResponse {
    /// All packages, those that were installed before included.
    pub installed: Vec<PackageView>,
}

/// An exposed port.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PortResponse {
    /// The URL at which the port is reached.
    pub url: String,
}

/// A file, directory or link in a guest.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FileResponse {
    /// The last component of the path.
    pub name: String,
    /// The path: as it was requested, or below the directory that was listed.
    pub path: String,
    /// `file`, `directory`, `link` or `other`.
    pub kind: Value,
    /// The size in bytes.
    pub size: u64,
    /// The permission bits.
    pub mode: u32,
    /// The user id of the owner.
    pub user: u32,
    /// When the content was last changed.
    pub modified: Option<String>,
    /// The target of a link.
    pub target: Option<String>,
}

/// The content of a directory.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FileListResponse {
    /// The entries, sorted by path.
    pub entries: Vec<FileResponse>,
}

/// The programs that run in a sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ProcessListResponse {
    /// The programs.
    #[schema(value_type = Vec<Object>)]
    pub processes: Vec<Value>,
}
