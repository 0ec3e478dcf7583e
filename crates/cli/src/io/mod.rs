//! The terminal and the standard streams of this process: standard input that is forwarded, a program's output, signals,
//! and fumehood's own messages. The folder knows nothing of commands or their arguments.

mod build_progress;
mod interrupts;
mod log_limit;
mod log_writer;
mod messages;
mod output;
mod package_progress;
mod stdin;
mod terminal;
mod terminal_input;

pub(crate) use build_progress::BuildProgress;
pub(crate) use interrupts::{CancelGuard, Interrupt, Interrupts};
pub(crate) use log_limit::LogLimit;
pub(crate) use log_writer::LogWriter;
pub(crate) use messages::{
    eprint_message, error_text, print_denials, print_exposed_port, print_exposed_ports, print_line,
    print_skipped,
};
pub(crate) use output::{CapturedRun, Output};
pub(crate) use package_progress::PackageProgress;
pub(crate) use stdin::{InputSink, StdinForwarder, is_stdin_redirected};
pub(crate) use terminal::{
    Terminal, confirm, is_interactive, is_stderr_terminal, is_stdout_terminal, terminal_size,
};
pub(crate) use terminal_input::TerminalInput;
