//! The objects that callers receive, as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::{
    Accelerator, Download, Evidence, InstalledPackage, Isolation, Language, Outcome, Retry, Timing,
    VmOrigin,
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::program::ProgramResponse;
use crate::error::{ApiError, ApiErrorKind};

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

/// The kind of a run.
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
    pub retry: Retry,
    /// The message for people.
    pub message: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RunOutcome {
    /// The outcome that the engine reported.
    Reported(Box<Outcome>),
    /// An outcome that was read from the records, as it was written.
    Recorded(Map<String, Value>),
}

impl<'de> Deserialize<'de> for RunOutcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        if fields.get("ended_by").is_none_or(Value::is_null) {
            return Err(de::Error::missing_field("ended_by"));
        }
        Ok(Self::Recorded(fields))
    }
}

impl RunOutcome {
    /// Returns the outcome of a run whose server was killed, with a sentence for people.
    pub(crate) fn server_lost(detail: &str) -> Self {
        let fields = json!({
            "exit_code": null, "ended_by": "server_lost", "evidence": { "detail": detail },
        });
        Self::Recorded(fields.as_object().cloned().unwrap_or_default())
    }

    /// Returns the exit code of the program; `None` if it is unknown.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Reported(outcome) => outcome.exit_code,
            Self::Recorded(fields) => {
                let code = fields.get("exit_code").and_then(Value::as_i64);
                code.and_then(|code| i32::try_from(code).ok())
            }
        }
    }

    /// Returns why the run ended: `exited`, `signaled`, `timeout`, `cancelled`, `out_of_memory`, `output_limit`,
    /// `agent_lost` or `server_lost`.
    #[must_use]
    pub fn ended_by(&self) -> &str {
        match self {
            Self::Reported(outcome) => outcome.ended_by.as_str(),
            Self::Recorded(fields) => {
                let word = fields.get("ended_by").and_then(Value::as_str);
                word.unwrap_or_default()
            }
        }
    }

    /// Returns details of the reason for people, if there are any.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Reported(outcome) => outcome.evidence.detail.as_deref(),
            Self::Recorded(fields) => fields.get("evidence")?.get("detail")?.as_str(),
        }
    }
}

/// The schema of a [`RunOutcome`]. Unlike those of the engine's `Outcome`, its fields are absent until the run has ended.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what `RunOutcome` writes")]
struct OutcomeFields {
    /// The exit code of the program; null if it is unknown.
    exit_code: Option<i32>,
    /// Why the run ended: `exited`, `signaled`, `timeout`, `cancelled`, `out_of_memory`, `output_limit`, `agent_lost` or
    /// `server_lost`.
    ended_by: Option<String>,
    /// Evidence for the reason, with CPU time and peak memory.
    evidence: Option<Evidence>,
    /// The origin of the VM.
    source: Option<VmOrigin>,
    /// What executed the instructions of the VM.
    accelerator: Option<Accelerator>,
    /// `full`, or an object with the isolation layers that were missing.
    isolation: Option<Isolation>,
    /// The times of the run's phases.
    timing: Option<Timing>,
    /// The network activity, if the run had a network.
    #[schema(value_type = Option<Object>)]
    network: Option<Value>,
    /// The packages of the request, with their resolved versions.
    packages: Option<Vec<InstalledPackage>>,
    /// The results of the requested downloads, in their order.
    downloads: Option<Vec<Download>>,
}

/// The content of a file that was downloaded after a run: `text`, or `base64` if it is not UTF-8 or shorter that way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileContent {
    /// The path in the guest, as requested.
    pub path: String,
    /// The content, if it is UTF-8 with few control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The content as base64 otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl FileContent {
    pub(crate) fn new(path: String, bytes: &[u8]) -> Self {
        // JSON writes control characters in up to six bytes. A content never takes more than its base64, so that the
        // downloads of a run fit into the events that are kept.
        let is_short = |text: &&str| {
            json_text_len(text) <= base64::encoded_len(bytes.len(), true).unwrap_or(usize::MAX)
        };
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(is_short)
            .map(str::to_owned);
        let base64 = text.is_none().then(|| STANDARD.encode(bytes));
        Self { path, text, base64 }
    }

    /// Returns the memory that the content takes, in bytes.
    pub(crate) fn len(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        len(&self.text) + len(&self.base64)
    }
}

/// Returns how many bytes a text takes as a JSON string, without its quotes.
fn json_text_len(text: &str) -> usize {
    let escaped_len = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    };

    text.bytes().map(escaped_len).sum()
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
    /// The contents of the `downloads` that succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub files: Vec<FileContent>,
    /// Where in the output each value was displayed.
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) result_positions: Vec<OutputPosition>,
}

/// A point in the output of a run: how many bytes of each stream were kept by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OutputPosition {
    pub(crate) stdout: usize,
    pub(crate) stderr: usize,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunResponse {
    /// The id.
    pub id: String,
    /// The id of the sandbox that the run is in; null for a run with its own VM.
    pub sandbox: Option<String>,
    /// The kind: code or a program.
    pub kind: RunKind,
    /// The state.
    pub state: RunState,
    /// When the run was started.
    pub created_at: String,
    /// When the run ended; null before.
    pub ended_at: Option<String>,
    /// How the run ended; its fields are absent before. `ended_by` is `server_lost`, without most other fields, if the
    /// server was killed during the run.
    #[serde(flatten)]
    #[schema(value_type = OutcomeFields)]
    pub outcome: Option<RunOutcome>,
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

/// A checkpoint: the saved state of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckpointResponse {
    /// The id.
    pub id: String,
    /// The name that may be used in place of the id.
    pub name: Option<String>,
    /// Whether the checkpoint is on disk and survives the server. Others are in the server's memory.
    pub durable: bool,
    /// The id of the sandbox whose state was saved.
    pub sandbox: String,
    /// The language that the sandbox was started for.
    #[schema(value_type = Option<String>)]
    pub language: Option<Language>,
    /// The size in bytes: on disk if it is durable, or else in memory.
    pub bytes: u64,
    /// When the state was saved.
    pub created_at: String,
    /// The programs that were running and continue in each copy, at most 32. The copies may draw the same random
    /// numbers unless they ask the kernel.
    pub running_programs: Vec<ProgramResponse>,
    /// The number of all these programs.
    pub running_program_count: u64,
}

/// A list of checkpoints, the newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CheckpointListResponse {
    /// The checkpoints.
    pub checkpoints: Vec<CheckpointResponse>,
}

/// The packages that are installed in a sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct InstallResponse {
    /// All packages, those that were installed before included.
    pub installed: Vec<InstalledPackage>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_text_or_base64() {
        let json =
            |bytes: &[u8]| serde_json::to_value(FileContent::new("a".into(), bytes)).unwrap();
        assert_eq!(json(b"x"), json!({ "path": "a", "text": "x" }));
        assert_eq!(json(b"\x00\xff"), json!({ "path": "a", "base64": "AP8=" }));
    }

    #[test]
    fn no_content_takes_more_than_its_base64() {
        for text in ["\0", "\0\n\"\\\u{1f}\u{7f}é€", "a\tb"] {
            let quoted = serde_json::to_string(text).unwrap();
            assert_eq!(json_text_len(text), quoted.len() - 2, "{text:?}");
        }

        let nul = vec![0; 1000];
        let file = FileContent::new("a".into(), &nul);
        assert_eq!(
            (file.text, file.base64),
            (None, Some(STANDARD.encode(&nul)))
        );

        // A few control characters leave a text a text.
        let text = format!("{}\0", "x".repeat(1000));
        let file = FileContent::new("a".into(), text.as_bytes());
        assert_eq!((file.text, file.base64), (Some(text), None));
    }

    #[test]
    fn a_recorded_outcome_keeps_all_fields() {
        let recorded = json!({
            "id": "run_1", "sandbox": null, "kind": "code", "state": "ended",
            "created_at": "2026-01-01T00:00:00.000Z", "ended_at": null, "error": null,
            "exit_code": 3, "ended_by": "exited", "evidence": {}, "network": { "connections": 1 },
        });

        let run: RunResponse = serde_json::from_value(recorded.clone()).unwrap();
        let outcome = run.outcome.as_ref().unwrap();
        assert_eq!(
            (outcome.exit_code(), outcome.ended_by()),
            (Some(3), "exited")
        );

        let written = serde_json::to_value(&run).unwrap();
        for field in ["exit_code", "ended_by", "network"] {
            assert_eq!(written[field], recorded[field], "{field}");
        }
    }

    #[test]
    fn an_active_run_has_no_outcome() {
        let active = json!({
            "id": "run_1", "sandbox": null, "kind": "code", "state": "running",
            "created_at": "2026-01-01T00:00:00.000Z", "ended_at": null, "error": null,
        });
        let run: RunResponse = serde_json::from_value(active).unwrap();
        assert_eq!(run.outcome, None);
    }
}
