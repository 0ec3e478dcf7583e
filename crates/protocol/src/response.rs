use serde::{Deserialize, Serialize};

use crate::file::{Change, Done, Entries, Entry, Transferred, Watching};
use crate::process::{Attached, Detached, InputCredit, Processes, Queued, Started};
use crate::{Chunk, ErrorType, OpId, Quiesced, Refreshed, WireError};

/// Everything the agent can say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// Answer to `ping`.
    Pong(Pong),
    /// Answer to `hello`.
    Hello(HelloReply),
    /// Standard output of a program.
    Stdout(Output),
    /// Standard error of a program.
    Stderr(Output),
    /// A part of a line of JSON: a value that the code shows, as an object from MIME types to data.
    Result(Output),
    /// Content of a file.
    File(Output),
    /// Announces a raw frame of output.
    Data(Data),
    /// The end of an operation that ran.
    Complete(Complete),
    /// The end of an operation that was refused.
    Error(ErrorMessage),
    /// Answer to `quiesce`.
    Quiesced(Quiesced),
    /// Answer to `refresh`.
    Refreshed(Refreshed),
    /// A program has been started.
    Started(Started),
    /// An exec waits for its context.
    Queued(Queued),
    /// More input may be sent.
    Credit(InputCredit),
    /// An operation goes on without this client.
    Detached(Detached),
    /// An operation is followed from here on.
    Attached(Attached),
    /// The programs that run.
    Processes(Processes),
    /// What is at a path.
    Entry(Entry),
    /// Entries of a directory.
    Entries(Entries),
    /// The end of an operation that has nothing else to tell.
    Done(Done),
    /// The end of a file's way.
    Transferred(Transferred),
    /// From here on changes are told.
    Watching(Watching),
    /// Something has changed.
    Change(Change),
}

/// Answer to `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pong {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// The agent's version.
    pub version: String,
}

/// Answer to `hello`: what holds on this connection from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HelloReply {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// The agent's version.
    pub version: String,
    /// The protocol version that holds: the lower of both sides' highest.
    pub protocol: u32,
    /// The features asked for that the agent has; they hold now.
    pub features: Vec<String>,
    /// Differs after every boot, and so tells a client whether its guest is still the same.
    pub boot_id: String,
    /// The request's nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Output {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// Counts the pieces of one operation, both streams together, from 0. Absent in version 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The bytes. Version 0 has only text here: U+FFFD stands for what is no UTF-8.
    pub chunk: Chunk,
}

/// Which stream of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Values that the code shows: lines of JSON.
    Result,
    /// A file's content.
    File,
}

impl Stream {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Result => "result",
            Self::File => "file",
        }
    }
}

/// Announces a raw frame: exactly `len` bytes follow this line's newline. Only where
/// [`FEATURE_RAW_FRAMES`](crate::FEATURE_RAW_FRAMES) holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Data {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// Which stream the bytes belong to.
    pub stream: Stream,
    /// As in [`Output::seq`].
    pub seq: u64,
    /// How many bytes follow: 1 to `chunk_bytes`.
    pub len: u64,
}

/// The end of an operation that ran. All its output came before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Complete {
    /// The request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// What the program exited with; 128 + signal when a signal ended it; 124 on timeout, 130 when
    /// cancelled, 137 when out of memory. 0 = success.
    pub exit_code: i32,
    /// Milliseconds from the request's arrival to the end.
    pub execution_time_ms: u64,
    /// Milliseconds until the interpreter was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawn_ms: Option<u64>,
    /// Milliseconds from then to the end of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_ms: Option<u64>,
    /// Why it ended.
    pub ended_by: EndedBy,
    /// What shows that.
    #[serde(default)]
    pub evidence: Evidence,
    /// What was sent of standard output.
    #[serde(default)]
    pub stdout: StreamSummary,
    /// What was sent of standard error.
    #[serde(default)]
    pub stderr: StreamSummary,
    /// What was sent of values that the code showed.
    #[serde(default, skip_serializing_if = "StreamSummary::is_empty")]
    pub results: StreamSummary,
}

/// Why an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The program exited by itself.
    Exited,
    /// A signal that nobody here sent.
    Signaled,
    /// Its time was up.
    Timeout,
    /// The client cancelled it.
    Cancelled,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It wrote more than it was allowed to.
    OutputLimit,
    /// The agent or its VM went away; said by the host, never by the agent.
    AgentLost,
}

impl EndedBy {
    /// The name on the wire.
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

/// What was measured of an operation, and what shows why it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct Evidence {
    /// The signal that ended the program, by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Processes of this operation that the kernel killed for want of memory (`oom_kill` of its cgroup).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Most memory that the operation held at once, in bytes (`memory.peak` of its cgroup).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// CPU time of the operation in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_us: Option<u64>,
    /// Processes that the operation left running and that were killed at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_processes: Option<u64>,
    /// For a person, where there is more to say: the guest's last words, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What was sent of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct StreamSummary {
    /// How many bytes the program wrote and the agent sent.
    pub bytes: u64,
    /// CRC-32C (Castagnoli) of those bytes.
    pub crc32c: u32,
}

impl StreamSummary {
    /// Nothing was sent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// The end of an operation that was refused, or of a line that was none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorMessage {
    /// The request's, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<OpId>,
    /// What was wrong, what the limit is, what to do.
    pub message: String,
    /// The kind of mistake.
    pub error_type: ErrorType,
    /// The kernel's number of what went wrong with a file, as errno(3) has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl ErrorMessage {
    /// The refusal as a response.
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

/// The most of a parser's reason that goes into an error.
const REASON_CHARS: usize = 400;

impl Response {
    /// Reads one line that an agent sent.
    ///
    /// # Errors
    /// `protocol_error`: the line is no response of this protocol.
    pub fn parse(line: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(line).map_err(|error| {
            // The reason may quote what the agent sent.
            let reason: String = error.to_string().chars().take(REASON_CHARS).collect();
            let message = format!("the agent sent a line that is no response: {reason}");
            WireError::new(ErrorType::ProtocolError, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_look_as_the_seed_says() {
        let pong = Response::Pong(Pong {
            op_id: None,
            version: "0.1.0".into(),
        });
        assert_eq!(
            serde_json::to_string(&pong).unwrap(),
            r#"{"type":"pong","version":"0.1.0"}"#
        );
        let output = Response::Stdout(Output {
            op_id: None,
            seq: None,
            chunk: b"hi\n".to_vec().into(),
        });
        assert_eq!(
            serde_json::to_string(&output).unwrap(),
            r#"{"type":"stdout","chunk":"hi\n"}"#
        );
    }

    #[test]
    fn a_bare_complete_of_version_0_can_be_read() {
        let line =
            br#"{"type":"complete","exit_code":0,"execution_time_ms":3,"ended_by":"exited"}"#;
        assert!(matches!(
            Response::parse(line).unwrap(),
            Response::Complete(_)
        ));
    }

    #[test]
    fn a_line_that_is_no_response_is_refused() {
        for line in ["", "{}", r#"{"type":"dance"}"#, r#"{"type":"pong"}"#] {
            assert!(Response::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
