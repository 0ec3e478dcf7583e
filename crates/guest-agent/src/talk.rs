use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fumehood_protocol::Language;

use crate::cgroup::Usage;
use crate::interpreter::{Interpreter, Mode};
use crate::kept::Home;
use crate::process::Process;

/// An exec's conversation with its interpreter: the message that begins the program, the word that ends it.
#[derive(Debug)]
pub(crate) struct Talk {
    language: Language,
    script: Option<File>,
    /// What the interpreter had used before.
    pub(crate) used: Usage,
    reseed: bool,
    lacks_environment: bool,
    tainted: bool,
    pub(crate) mode: Mode,
    /// Where the interpreter goes back to; none = it ends with the program.
    pub(crate) home: Option<Home>,
    /// The context had lost its state before this exec.
    pub(crate) anew: bool,
    messages: OwnedFd,
    /// The message that is still to be sent, and how much of it was.
    message: Option<(Vec<u8>, usize)>,
    input: OwnedFd,
    /// Where results come from, while none are wanted.
    results: Option<OwnedFd>,
}

/// An interpreter, and the message that begins a program in it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) interpreter: Interpreter,
    pub(crate) message: Vec<u8>,
    pub(crate) mode: Mode,
    pub(crate) home: Option<Home>,
    /// The context had lost its state before.
    pub(crate) anew: bool,
    /// It was waiting already.
    pub(crate) is_up: bool,
    /// Results are wanted.
    pub(crate) display: bool,
    /// A writer of its standard input, where it has one.
    pub(crate) input: Option<OwnedFd>,
}

/// What an operation has of an interpreter, beside the conversation.
pub(crate) struct Parts {
    pub(crate) process: Process,
    pub(crate) outputs: [Option<OwnedFd>; 3],
    pub(crate) words: Option<OwnedFd>,
}

impl Talk {
    /// Begins; nothing has been sent yet.
    pub(crate) fn new(begun: Begun) -> (Self, Parts) {
        let interpreter = begun.interpreter;
        let [stdout, stderr, results] = interpreter.outputs;
        let (shown, kept) = if begun.display {
            (results, None)
        } else {
            (None, results)
        };
        let talk = Self {
            language: interpreter.language,
            script: interpreter.script,
            used: interpreter.used,
            reseed: interpreter.reseed,
            lacks_environment: interpreter.lacks_environment,
            tainted: interpreter.tainted,
            mode: begun.mode,
            home: begun.home,
            anew: begun.anew,
            messages: interpreter.messages,
            message: Some((begun.message, 0)),
            input: interpreter.input,
            results: kept,
        };
        let parts = Parts {
            process: interpreter.process,
            outputs: [stdout, stderr, shown],
            words: Some(interpreter.words),
        };
        (talk, parts)
    }

    /// Where the message goes to, while not all of it has been sent.
    pub(crate) fn unsent(&self) -> Option<BorrowedFd<'_>> {
        self.message.is_some().then(|| self.messages.as_fd())
    }

    /// Sends what the interpreter takes of its message.
    pub(crate) fn feed(&mut self) {
        let Some((message, sent)) = &mut self.message else {
            return;
        };
        while *sent < message.len() {
            match rustix::io::write(&self.messages, &message[*sent..]) {
                Ok(bytes) => *sent += bytes,
                Err(rustix::io::Errno::AGAIN) => return,
                // The interpreter is gone; its end will tell.
                Err(_) => break,
            }
        }
        self.message = None;
    }

    /// Whether a word of its interpreter ends it. Bun and bash say nothing of an end that is their own; where
    /// nothing holds its processes together, only the process's own end tells what it leaves.
    pub(crate) fn ends_by_word(&self, process: &Process) -> bool {
        self.mode != Mode::Once || (self.language == Language::Python && process.cgroup().is_some())
    }

    /// Whether its interpreter may miss one interrupt: one that looks for it before it begins to wait.
    pub(crate) fn wants_two_interrupts(&self) -> bool {
        self.language != Language::Javascript && self.mode == Mode::Context
    }

    /// The interpreter and where it goes back to, after a program that it survived.
    pub(crate) fn into_interpreter(self, parts: Parts) -> Option<(Home, Interpreter)> {
        let (home, words) = (self.home?, parts.words?);
        let [stdout, stderr, results] = parts.outputs;
        // What this program has left unread is not for the next one.
        crate::input::drain(&self.input);
        let interpreter = Interpreter {
            language: self.language,
            process: parts.process,
            outputs: [stdout, stderr, results.or(self.results)],
            input: self.input,
            messages: self.messages,
            words,
            script: self.script,
            used: self.used,
            reseed: self.reseed,
            lacks_environment: self.lacks_environment,
            tainted: self.tainted,
        };
        Some((home, interpreter))
    }
}
