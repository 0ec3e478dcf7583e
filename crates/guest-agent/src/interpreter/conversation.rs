use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fumehood_protocol::Language;

use super::interpreter::{ExecMode, Interpreter};
use super::pool::InterpreterSlot;
use super::script_file::ScriptFile;
use crate::process::{Process, Usage, drain};

/// The conversation of one exec with its interpreter, from the message that starts the program to the control message
/// that ends it. It holds the parts of the interpreter that the operation does not need.
#[derive(Debug)]
pub(crate) struct Conversation {
    language: Language,
    code_file: Option<File>,
    script: Option<ScriptFile>,
    /// The interpreter's usage before this exec.
    pub(crate) usage: Usage,
    reseed: bool,
    needs_environment: bool,
    has_run_user_code: bool,
    pub(crate) mode: ExecMode,
    /// The slot that the interpreter returns to. `None`: it ends with the program.
    pub(crate) slot: Option<InterpreterSlot>,
    /// The context had lost its state before this exec.
    pub(crate) state_lost: bool,
    message_pipe: Option<OwnedFd>,
    /// The message, while it is being sent, and the number of bytes sent so far.
    message: Option<(Vec<u8>, usize)>,
    stdin_reader: OwnedFd,
    /// The pipe for results, if the client does not want any.
    results: Option<OwnedFd>,
}

/// An interpreter, and the message that starts a program in it.
#[derive(Debug)]
pub(crate) struct ExecLaunch {
    pub(crate) interpreter: Interpreter,
    /// `None`: the program runs already.
    pub(crate) message: Option<Vec<u8>>,
    pub(crate) mode: ExecMode,
    pub(crate) slot: Option<InterpreterSlot>,
    /// The context had lost its state before.
    pub(crate) state_lost: bool,
    /// The interpreter was running before this exec.
    pub(crate) is_running: bool,
    /// The client wants results.
    pub(crate) display: bool,
    /// The writing end of standard input, if the program has one.
    pub(crate) input: Option<OwnedFd>,
}

/// The process of an operation and its pipes.
pub(crate) struct ProcessIo {
    pub(crate) process: Process,
    /// Standard output, standard error, results.
    pub(crate) outputs: [Option<OwnedFd>; 3],
    pub(crate) control_pipe: Option<OwnedFd>,
}

impl Conversation {
    /// Splits a launch into the conversation and the parts that the operation handles itself. Nothing is sent yet.
    pub(crate) fn new(launch: ExecLaunch) -> (Self, ProcessIo) {
        let interpreter = launch.interpreter;
        let [stdout, stderr, results] = interpreter.outputs;

        let (wanted, unwanted) = if launch.display {
            (results, None)
        } else {
            (None, results)
        };

        let conversation = Self {
            language: interpreter.language,
            code_file: interpreter.code_file,
            script: interpreter.script,
            usage: interpreter.usage,
            reseed: interpreter.reseed,
            needs_environment: interpreter.needs_environment,
            has_run_user_code: interpreter.has_run_user_code,
            mode: launch.mode,
            slot: launch.slot,
            state_lost: launch.state_lost,
            message_pipe: interpreter.message_pipe,
            message: launch.message.map(|message| (message, 0)),
            stdin_reader: interpreter.stdin_reader,
            results: unwanted,
        };

        let io = ProcessIo {
            process: interpreter.process,
            outputs: [stdout, stderr, wanted],
            control_pipe: Some(interpreter.control_pipe),
        };

        (conversation, io)
    }

    /// The message pipe, while the message was not sent completely.
    pub(crate) fn pending_fd(&self) -> Option<BorrowedFd<'_>> {
        self.message.as_ref()?;
        self.message_pipe.as_ref().map(AsFd::as_fd)
    }

    /// Sends as much of the message as the pipe accepts.
    pub(crate) fn send_message(&mut self) {
        let (Some((message, sent)), Some(message_pipe)) = (&mut self.message, &self.message_pipe)
        else {
            return;
        };

        while *sent < message.len() {
            match rustix::io::write(message_pipe, &message[*sent..]) {
                Ok(bytes) => *sent += bytes,
                Err(rustix::io::Errno::AGAIN) => return,
                // The interpreter is gone; the end of its process is handled elsewhere.
                Err(_) => break,
            }
        }

        self.message = None;
    }

    /// Whether a control message of the interpreter ends the program. Bun and bash send none when they end themselves.
    /// Without a cgroup, only the end of the process shows which processes it leaves behind.
    pub(crate) fn ends_by_report(&self, process: &Process) -> bool {
        self.mode != ExecMode::OneShot
            || (self.language == Language::Python && process.cgroup().is_some())
    }

    /// Whether a single interrupt may be lost. Bash may be about to create the child that it waits for, Python about to
    /// sleep, and bun about to start the program: all check for an interrupt before that.
    pub(crate) fn needs_second_interrupt(&self) -> bool {
        self.mode == ExecMode::Context
    }

    /// Puts the interpreter together again after a program that it has survived, and returns it with its slot.
    pub(crate) fn into_interpreter(self, io: ProcessIo) -> Option<(InterpreterSlot, Interpreter)> {
        let (slot, control_pipe) = (self.slot?, io.control_pipe?);
        let [stdout, stderr, results] = io.outputs;
        // The next program must not get input that this one has left unread.
        drain(&self.stdin_reader);
        let interpreter = Interpreter {
            language: self.language,
            process: io.process,
            outputs: [stdout, stderr, results.or(self.results)],
            stdin_reader: self.stdin_reader,
            message_pipe: self.message_pipe,
            control_pipe,
            code_file: self.code_file,
            script: self.script,
            usage: self.usage,
            reseed: self.reseed,
            needs_environment: self.needs_environment,
            has_drawn: false,
            has_run_user_code: self.has_run_user_code,
        };

        Some((slot, interpreter))
    }
}
