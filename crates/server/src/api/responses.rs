//! What callers get, as JSON.

use fumehood_engine::InstalledPackage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, Kind};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// It waits for a VM.
    Queued,
    /// It runs.
    Running,
    /// It has ended, and has an outcome.
    Ended,
    /// It has none.
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

    /// Whether nothing will change any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

/// What a run is.
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
    /// As an error's.
    pub kind: String,
    /// As an error's.
    pub retry: String,
    /// For a person.
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

/// What a run wrote and showed, as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputView {
    /// Standard output.
    #[schema(required = false)]
    pub stdout: String,
    /// `utf-8`, or `base64` where it is no text.
    #[schema(required = false)]
    pub stdout_encoding: String,
    /// Bytes that were written.
    #[schema(required = false)]
    pub stdout_bytes: u64,
    /// Whether more was written than is kept.
    #[schema(required = false)]
    pub stdout_truncated: bool,
    /// Standard error.
    #[schema(required = false)]
    pub stderr: String,
    /// As standard output's.
    #[schema(required = false)]
    pub stderr_encoding: String,
    /// As standard output's.
    #[schema(required = false)]
    pub stderr_bytes: u64,
    /// As standard output's.
    #[schema(required = false)]
    pub stderr_truncated: bool,
    /// Values: objects from MIME types to data.
    #[schema(required = false)]
    pub results: Vec<Value>,
    /// Whether more was shown than is kept.
    #[schema(required = false)]
    pub results_truncated: bool,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Its id.
    pub id: String,
    /// The sandbox that it runs in; null: a VM of its own.
    pub sandbox: Option<String>,
    /// What it is.
    pub kind: RunKind,
    /// What it is doing.
    pub state: RunState,
    /// When it was begun.
    pub created_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: OutcomeView,
    /// What it wrote and showed; left out of lists, and once it is not kept any more.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = OutputView)]
    pub output: Option<OutputView>,
    /// Why it has no outcome.
    pub error: Option<RunError>,
}

/// Runs, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct RunsView {
    /// Without their outputs.
    pub runs: Vec<RunView>,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// It is there.
    Running,
    /// It is not.
    Ended,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxView {
    /// Its id.
    pub id: String,
    /// Its name, for people.
    pub name: Option<String>,
    /// What it is doing.
    pub state: SandboxState,
    /// When it was started.
    pub created_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// `asked`, `idle`, `lifetime`, `lost`, `server_stopped` or `server_lost`.
    pub ended: Option<String>,
    /// The same as a sentence.
    pub ended_why: Option<String>,
    /// Its memory.
    pub memory_mib: u32,
    /// Seconds without anything asked of it after which it ends.
    pub idle_timeout_s: u64,
    /// Seconds after which it ends.
    pub max_lifetime_s: u64,
    /// Where its VM came from.
    pub source: String,
    /// `full`, or an object with the walls that are missing.
    pub isolation: Value,
    /// Where its exposed ports are reached.
    pub urls: Vec<String>,
}

/// Sandboxes, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct SandboxesView {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxView>,
}

/// A saved state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CheckpointView {
    /// Its id.
    pub id: String,
    /// The sandbox that it was saved of.
    pub sandbox: String,
    /// Bytes of memory that it takes.
    pub bytes: u64,
    /// When it was saved.
    pub created_at: String,
}

/// Saved states.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CheckpointsView {
    /// The saved states.
    pub checkpoints: Vec<CheckpointView>,
}

/// A package that is installed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PackageView {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl From<InstalledPackage> for PackageView {
    fn from(InstalledPackage { name, version }: InstalledPackage) -> Self {
        Self { name, version }
    }
}

/// All packages that are installed in a sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InstalledView {
    /// The packages.
    pub installed: Vec<PackageView>,
}

/// Where an exposed port is reached.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct UrlView {
    /// Where.
    pub url: String,
}

/// What is at a path of a guest.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FileView {
    /// The last part of its path.
    pub name: String,
    /// Its path: as it was asked for, or below the directory that is listed.
    pub path: String,
    /// `file`, `directory`, `link` or `other`.
    pub kind: Value,
    /// Its size in bytes.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its owner's number.
    pub user: u32,
    /// When its content was changed last.
    pub modified: Option<String>,
    /// Where a link leads to.
    pub target: Option<String>,
}

/// What is in a directory.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct EntriesView {
    /// Sorted by path.
    pub entries: Vec<FileView>,
}

/// Programs that run in a guest.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ProcessesView {
    /// The programs.
    #[schema(value_type = Vec<Object>)]
    pub processes: Vec<Value>,
}

impl RunView {
    /// Why it has no outcome, as an answer says it.
    pub(crate) fn failure(&self) -> Option<ApiError> {
        let error = self.error.as_ref()?;
        let words = ["safe", "never"];
        let retry = words.into_iter().find(|word| error.retry == *word);
        Some(ApiError {
            retry: retry.unwrap_or("unknown"),
            run: Some(self.id.as_str().into()),
            ..ApiError::new(Kind::named(&error.kind), &*error.message)
        })
    }
}

impl From<&ApiError> for RunError {
    fn from(error: &ApiError) -> Self {
        Self {
            kind: error.kind.name(),
            retry: error.retry.to_owned(),
            message: error.message.clone(),
        }
    }
}
