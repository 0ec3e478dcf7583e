//! The conformance suite of the guest agent's protocol.
//!
//! Every normative sentence of `docs/reference/protocol.md` has an identifier, such as `FRAME-3`: a *clause*. The suite
//! connects to any agent and reports for each clause whether the agent fulfils it, with the lines of a failure.
//!
//! The suite shares no code with the agent, not even the types of the messages: a fault in a shared codec would be
//! invisible to it.
//!
//! The modules are listed from the top layer to the bottom: a module imports only modules listed after it.

mod suite;
mod golden;
mod clauses;
mod report;
mod client;

pub use clauses::{Clause, clauses};
pub use client::{Address, AddressError};
pub use golden::{GoldenError, replay};
pub use report::{ClauseReport, Report, Verdict};
pub use suite::{Options, SuiteError, run};
