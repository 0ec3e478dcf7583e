//! What each request does.
//!
//! [`serve`] gives one client its turn: it takes the client's requests, dispatches each to its handler and moves
//! output. Handlers check a request, then start an operation or answer at once. How bytes travel belongs to
//! `transport`, what happens to a running program to `operation`.

mod admission;
mod attach;
mod client;
mod context_queue;
mod dispatch;
mod exec;
mod exec_launch;
mod files;
mod files_metadata;
mod hello;
mod install_packages;
mod list_processes;
mod refresh;
mod spawn;

pub(crate) use client::Client;
pub(crate) use context_queue::{can_start_queued, start_queued};
pub(crate) use dispatch::serve;
