//! The list of running programs: `list_processes`.

use serde::{Deserialize, Serialize};

use super::envelope::{request, response};
use crate::value::IdempotencyKey;

request! {
    /// Lists the running programs. The agent answers with `processes`.
    ListProcesses {}
}

response! {
    /// The programs that the agent has started and that still run.
    Processes {
        /// The programs, the oldest first.
        processes: Vec<ProcessInfo>,
    }
}

/// A program that the agent has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessInfo {
    /// The process id in the guest.
    pub pid: i32,
    /// The request that started it.
    pub kind: ProcessKind,
    /// The command, truncated if it is long.
    pub command: String,
    /// The context, if this is the interpreter of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The tag from the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The key from the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// Whether a client follows it.
    pub attached: bool,
    /// Milliseconds since its start.
    pub age_ms: u64,
    /// All processes that belong to it, itself included. Empty if the guest cannot list them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<i32>,
}

/// The request that started a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProcessKind {
    /// An exec that has a separate interpreter.
    Exec,
    /// The interpreter of a context, whether an exec runs in it or not.
    Context,
    /// A `spawn`.
    Spawn,
    /// An `install_packages`.
    Install,
}
