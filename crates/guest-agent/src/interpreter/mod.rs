//! Interpreters that run code which comes as a message: how they are started, spoken to and kept for the next program.
//!
//! The agent starts an interpreter before it has code for it. The programs in `runners/` wait inside the interpreters
//! and implement the other side of the conversation.

mod command;
mod conversation;
mod interpreter;
mod main_file;
mod numbered_file;
mod pool;
mod script;
mod script_file;
mod start;

pub(crate) use command::InterpreterCatalog;
pub(crate) use conversation::{Conversation, ExecLaunch, ProcessIo};
pub(crate) use interpreter::{ExecMode, Interpreter, ProgramSpec, acts_at_start, can_be_set_later};
pub(crate) use main_file::may_see_its_file;
pub(crate) use pool::{InterpreterPool, InterpreterSlot};
pub(crate) use script::{can_wait_for, start_script, take_script};
pub(crate) use script_file::ScriptFile;
pub(crate) use start::start_interpreter;
