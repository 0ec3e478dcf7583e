//! The end of an operation: `complete` if it ran, `error` if it was rejected.

use serde::{Deserialize, Serialize};

use super::envelope::response;
use crate::error::{ErrorType, WireError};
use crate::value::OpId;

response! {
    /// The end of an operation that ran. All its output was sent before.
    Complete {
        /// The exit code of the program; 128 + signal if a signal terminated it; 124 on timeout, 130 when
        /// cancelled, 137 when out of memory. 0 = success.
        exit_code: i32,
        /// Milliseconds from the arrival of the request to the end.
        execution_time_ms: u64,
        /// Milliseconds until the interpreter was ready.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spawn_ms: Option<u64>,
        /// Milliseconds from then to the end of the process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        process_ms: Option<u64>,
        /// Why the operation ended.
        ended_by: EndedBy,
        /// The measurements that support `ended_by`.
        #[serde(default)]
        evidence: Evidence,
        /// Size and checksum of the standard output that was sent.
        #[serde(default)]
        stdout: StreamSummary,
        /// Size and checksum of the standard error that was sent.
        #[serde(default)]
        stderr: StreamSummary,
        /// Size and checksum of the displayed values that were sent.
        #[serde(default, skip_serializing_if = "StreamSummary::is_empty")]
        results: StreamSummary,
    }
}

/// Why an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The program exited by itself.
    Exited,
    /// A signal that the agent did not send terminated the program.
    Signaled,
    /// The timeout expired.
    Timeout,
    /// The client cancelled it.
    Cancelled,
    /// The kernel killed it because memory ran out.
    OutOfMemory,
    /// It exceeded its output limit.
    OutputLimit,
    /// The agent or its VM was lost. Only the host reports this, never the agent.
    AgentLost,
}

impl EndedBy {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::OutOfMemory => "out_of_memory",
            Self::OutputLimit => "output_limit",
            Self::AgentLost => "agent_lost",
        }
    }
}

impl std::fmt::Display for EndedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Measurements of an operation, which also support why it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct Evidence {
    /// The number of the signal that terminated the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Processes of this operation that the kernel killed because memory ran out (`oom_kill` of its cgroup).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// The peak memory of the operation, in bytes (`memory.peak` of its cgroup).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// The CPU time of the operation, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_us: Option<u64>,
    /// Processes that the operation left running and that were killed at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_processes: Option<u64>,
    /// More detail for people, such as the last lines of the guest's console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Size and checksum of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct StreamSummary {
    /// The number of bytes that the program wrote and the agent sent.
    pub bytes: u64,
    /// The CRC-32C (Castagnoli) of those bytes.
    pub crc32c: u32,
}

impl StreamSummary {
    /// Returns whether nothing was sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// The end of an operation that was rejected, or the answer to a line that is no request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorMessage {
    /// The `op_id` of the request, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// What was wrong, the limit, and how to fix it.
    pub message: String,
    /// The kind of error.
    pub error_type: ErrorType,
    /// The kernel's error number of a file operation, as in errno(3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl ErrorMessage {
    /// Creates the response that reports `error`; `version` is that of the agent.
    #[must_use]
    pub fn new(op_id: Option<OpId>, error: WireError, version: &str) -> Self {
        Self {
            op_id,
            message: error.message,
            error_type: error.error_type,
            errno: error.errno,
            version: Some(version.to_string()),
        }
    }
}
