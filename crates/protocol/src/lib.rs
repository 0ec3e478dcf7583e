//! What the host and the guest agent say to each other.
//!
//! One JSON object a line, `\n` at its end, UTF-8. Requests carry `action`, responses carry
//! `type`. Version 0 is what the seed describes: synchronous, text chunks. Version 1 adds
//! `hello`, `op_id` (many operations at once), `cancel`, flow control by `credit`, byte-exact
//! output and an honest `ended_by`. The specification is `docs/reference/protocol.md`.
//!
//! This crate holds the types, the limits, the validation and the codec. It does no I/O, has no
//! clock and no async runtime: bytes go in, items come out. It is the only place where a limit
//! or a field name is written.

mod chunk;
mod codec;
mod context;
mod env;
mod error;
mod file;
mod key;
mod language;
mod limits;
mod message;
pub mod network;
mod op;
mod package;
mod path;
mod process;
mod refresh;
mod request;
mod response;
mod secret;
mod text;

pub use chunk::Chunk;
pub use codec::{Decoder, Item, encode_line};
pub use context::ContextName;
pub use env::{BLOCKED_NAMES, BLOCKED_PREFIXES, EnvVars, is_blocked};
pub use error::{ErrorType, WireError};
pub use file::{
    Change, ChangeKind, Done, Entries, Entry, FileInfo, FileKind, ListFiles, MakeDir, MoveFile,
    ReadFile, RemoveFile, Stat, Transferred, Watch, Watching, WriteFile, too_large,
};
pub use key::IdempotencyKey;
pub use language::Language;
pub use limits::{LIMITS, LimitSpec, Limits};
pub use op::OpId;
pub use package::{PackageSpec, Packages};
pub use path::GuestPath;
pub use process::{
    Attach, Attached, CloseContext, Detach, Detached, InputCredit, InputData, ListProcesses,
    ProcessInfo, ProcessKind, Processes, PtySize, Queued, Resize, SendSignal, SignalName, Spawn,
    Started, Stdin, User,
};
pub use refresh::{Quiesce, Quiesced, Refresh, Refreshed};
pub use request::{
    ACTIONS, ActionTag, Cancel, Credit, Exec, Hello, InstallPackages, Ping, RejectedRequest,
    Request,
};
pub use response::{
    Complete, Data, EndedBy, ErrorMessage, Evidence, HelloReply, Output, Pong, Response, Stream,
    StreamSummary,
};
pub use secret::constant_time_eq;
pub use text::Utf8Splitter;

/// The protocol version this crate speaks: the highest that `hello` can agree on.
pub const PROTOCOL_VERSION: u32 = 1;

/// The name of the virtio-serial port on which the agent listens in our own VMs.
pub const AGENT_PORT: &str = "fumehood.agent";

/// Raw frames for output: a `data` line, then exactly `len` bytes. See [`Data`].
pub const FEATURE_RAW_FRAMES: &str = "raw_frames";
/// Flow control by `credit`. See [`Credit`].
pub const FEATURE_CREDIT: &str = "credit";
/// `cancel`. See [`Cancel`].
pub const FEATURE_CANCEL: &str = "cancel";
/// Interpreters that keep their state (`context`) or wait for their code (`prepare`). See [`Exec`].
pub const FEATURE_CONTEXTS: &str = "contexts";
/// `spawn`, input of operations, `detach` and `attach`. See [`Spawn`].
pub const FEATURE_PROCESSES: &str = "processes";
/// Files. See [`WriteFile`].
pub const FEATURE_FILES: &str = "files";
/// `quiesce` and `refresh`. See [`Refresh`].
pub const FEATURE_REFRESH: &str = "refresh";
