//! The requests and responses of the protocol, one module for each group that belongs together.
//!
//! [`Request`] and [`Response`] list all of them and parse lines. The validation that needs a whole
//! message is here; the values that messages carry, and their validation, are in `value`.

mod request;
mod response;

mod attach;
mod complete;
mod control;
mod envelope;
mod exec;
mod file;
mod hello;
mod install_packages;
mod output;
mod process_list;
mod refresh;
mod spawn;

pub use attach::{Attach, Attached, Detach, Detached};
pub use complete::{Complete, EndedBy, ErrorMessage, Evidence, StreamSummary};
pub use control::{Cancel, Credit, InputCredit, InputData, Resize, SendSignal, Stdin};
pub use envelope::ActionTag;
pub use exec::{CloseContext, Exec, Queued};
pub use file::{
    Change, ChangeKind, Done, Entries, Entry, FileInfo, FileKind, ListFiles, MakeDir, MoveFile,
    ReadFile, RemoveFile, Stat, Transferred, Watch, Watching, WriteFile, too_large,
};
pub use hello::{Hello, HelloReply, Ping, Pong};
pub use install_packages::InstallPackages;
pub use output::{Data, Output, Stream};
pub use process_list::{ListProcesses, ProcessInfo, ProcessKind, Processes};
pub use refresh::{Quiesce, Quiesced, Refresh, Refreshed, RunningProgram};
pub use request::{ACTIONS, RejectedRequest, Request};
pub use response::Response;
pub use spawn::{PtySize, Spawn, Started, User};
