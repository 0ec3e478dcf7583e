//! `fumehood run`: one program in a fresh VM.
//!
//! [`plan`] turns the arguments into a request, [`execute`] runs it in this process or, with [`via_server`], on a running
//! server, [`follow`] passes on its output, and [`report`] prints the outcome.

mod backend;
mod execute;
mod folders;
mod follow;
mod json;
mod plan;
mod report;
mod via_server;

pub(crate) use execute::run;
pub(crate) use plan::read_code;
