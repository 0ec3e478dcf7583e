//! The real agent on this machine, over TCP: what it answers, and what it survives.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod contexts;
mod endings;
mod exactly_once;
mod files;
mod freshness;
mod input;
mod javascript;
mod javascript_outside;
mod languages;
mod limits;
mod many;
mod output;
mod processes;
mod python;
mod python_shows;
mod queue;
mod refusals;
mod session;
mod shell;
mod support;
mod tidy;
mod waiting;
mod watches;
