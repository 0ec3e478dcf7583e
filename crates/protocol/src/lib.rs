//! The protocol between the host and the guest agent.
//!
//! Each message is one JSON object on one line, in UTF-8, terminated by `\n`. Requests carry
//! `action`, responses carry `type`. Version 0 is the protocol of the seed: synchronous, with
//! output as text. Version 1 adds `hello`, `op_id` (concurrent operations), `cancel`, flow control
//! by `credit`, byte-exact output and a reliable `ended_by`. The specification is
//! `docs/reference/protocol.md`.
//!
//! This crate holds the types, the limits, the validation and the codec. It does no I/O, and has
//! no clock and no async runtime: it turns bytes into items and messages into bytes. Limits and
//! field names are written here and nowhere else.
//!
//! The modules, from the top layer to the bottom; a module uses only those below it.

#![warn(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic if the stream is closed or its disk is full"
)]

mod message;
mod codec;
mod value;
mod limits;
pub mod network;
mod error;

pub use codec::{Decoder, Item, Utf8Splitter, encode_line};
pub use error::{ErrorType, WireError};
pub use limits::{LIMITS, LimitSpec, Limits};
pub use message::{
    ACTIONS, ActionTag, Attach, Attached, Cancel, Change, ChangeKind, CloseContext, Complete,
    Credit, Data, Detach, Detached, Done, EndedBy, Entries, Entry, ErrorMessage, Evidence, Exec,
    FileInfo, FileKind, Hello, HelloReply, InputCredit, InputData, InstallPackages, ListFiles,
    ListProcesses, MakeDir, MoveFile, Output, Ping, Pong, ProcessInfo, ProcessKind, Processes,
    PtySize, Queued, Quiesce, Quiesced, ReadFile, Refresh, Refreshed, RejectedRequest, RemoveFile,
    Request, Resize, Response, RunningProgram, SendSignal, Spawn, Started, Stat, Stdin, Stream,
    StreamSummary, Transferred, User, Watch, Watching, WriteFile, too_large,
};
pub use value::{
    BLOCKED_NAMES, BLOCKED_PREFIXES, Chunk, ContextName, EnvVars, GuestPath, IdempotencyKey,
    Language, OpId, PackageSpec, Packages, SignalName, constant_time_eq, is_blocked,
};

/// The highest protocol version of this crate, and so the highest that `hello` can agree on.
pub const PROTOCOL_VERSION: u32 = 1;

/// The name of the virtio-serial port on which the agent listens in our own VMs.
pub const AGENT_PORT: &str = "fumehood.agent";

/// The feature of raw output frames: a `data` line, followed by exactly `len` bytes. See [`Data`].
pub const FEATURE_RAW_FRAMES: &str = "raw_frames";
/// The feature of flow control by `credit`. See [`Credit`].
pub const FEATURE_CREDIT: &str = "credit";
/// The feature of cancelling operations by `cancel`. See [`Cancel`].
pub const FEATURE_CANCEL: &str = "cancel";
/// The feature of interpreters that keep their state (`context`) or wait for their code (`prepare`).
/// See [`Exec`].
pub const FEATURE_CONTEXTS: &str = "contexts";
/// The feature of `spawn`, input of operations, `detach` and `attach`. See [`Spawn`].
pub const FEATURE_PROCESSES: &str = "processes";
/// The feature of file requests. See [`WriteFile`].
pub const FEATURE_FILES: &str = "files";
/// The feature of `quiesce` and `refresh`. See [`Refresh`].
pub const FEATURE_REFRESH: &str = "refresh";
