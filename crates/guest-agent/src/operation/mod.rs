//! Running programs, from the request that starts one to its `complete`: output, input, credit, timeouts, and the
//! record of those with a key.
//!
//! All operations are of one kind, whether a client waits for them or not. How a process or an interpreter is started
//! does not belong here.

mod completion;
mod control;
mod follower;
mod input;
mod journal;
mod operation;
mod output;
mod queue;
mod replay;
mod stop;
mod table;

pub(crate) use completion::{EXIT_CANCELLED, completion_response};
pub(crate) use follower::Follower;
pub(crate) use input::{Input, winsize};
pub(crate) use journal::{CompletedOperation, Journal, KeyedRequest};
pub(crate) use operation::{Operation, OperationParams, StopReason};
pub(crate) use output::Framing;
pub(crate) use queue::{ContextQueue, QueuedExec};
pub(crate) use replay::Replay;
pub(crate) use table::OperationTable;
