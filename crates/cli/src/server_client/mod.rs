//! Client of the HTTP API, for a server of this user at its Unix socket. Events of a run arrive as server-sent events, and
//! become those of an engine in this process. Printing the answers belongs in the commands.

mod local_server;
mod run;
mod client;
mod events;
mod answers;

pub(crate) use client::{Method, ServerClient, path_segment, with_query};
pub(crate) use local_server::ensure_running;
pub(crate) use run::{ServerRun, StartedRun};
