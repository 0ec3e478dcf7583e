use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{InputCredit, Limits, OpId, ProcessKind, Response, Stream};
use fumehood_sys::guest::{ChildExit, LaunchFailure};
use rustix::process::Signal;

use super::input::Input;
use super::journal::{KeyedRequest, OutputHistory};
use super::output::{Framing, OutputStream};
use crate::interpreter::{Conversation, ExecLaunch, Interpreter, InterpreterSlot, ProcessIo};
use crate::process::{Process, Usage};
use crate::transport::{ClientId, Encoding, Outbox};

/// One exec or spawn, from its request to its `complete`.
#[derive(Debug)]
pub(crate) struct Operation {
    /// The client that it sends to. `None`: it is detached.
    pub(crate) client: Option<ClientId>,
    pub(crate) keyed: Option<KeyedRequest>,
    /// A label that the client has chosen, for people to read.
    pub(crate) tag: Option<String>,
    pub(crate) kind: ProcessKind,
    pub(crate) framing: Framing,
    /// The next piece of earlier output that a newly attached client is to get.
    pub(crate) replay: Option<u64>,
    pub(crate) process: Process,
    /// The conversation with the interpreter of an exec.
    pub(crate) conversation: Option<Conversation>,
    /// The program has ended and its interpreter has not, or not yet.
    pub(crate) interpreter_alive: bool,
    /// Standard output, standard error, results.
    pub(crate) outputs: [OutputStream; 3],
    pub(crate) input: Option<Input>,
    /// Carries the interpreter's control messages, or the report of a failed start.
    pub(super) control_pipe: Option<OwnedFd>,
    /// A control message that is not complete yet.
    pub(super) control_buf: Vec<u8>,
    /// Output bytes that may still be read. `None`: there is no flow control.
    pub(crate) credit: Option<u64>,
    pub(crate) arrived: Instant,
    /// When the program started, after its interpreter was ready for it.
    pub(crate) ready: Option<Instant>,
    /// `None`: it may run without limit.
    pub(super) timeout: Option<Duration>,
    pub(crate) stopping: Option<StopState>,
    pub(crate) failure: Option<LaunchFailure>,
    pub(crate) end: Option<ProgramEnd>,
    /// Output was dropped, because the operation was cancelled while its output was not being read.
    pub(crate) output_dropped: bool,
    /// Number of its processes that the agent killed because memory was full and nothing made progress.
    pub(crate) stalled_oom_kills: u64,
}

/// Why an operation is being stopped, and which signal comes next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopState {
    pub(crate) reason: StopReason,
    pub(super) next: Option<(Signal, Instant)>,
    /// Whether the client has cancelled it again: then it does not want output that waits for credit.
    pub(super) is_repeated: bool,
}

/// Why an operation is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Its timeout has passed.
    Timeout,
    /// The client has cancelled it.
    Cancel,
}

/// How and when the program has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgramEnd {
    pub(crate) ended: ChildExit,
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    /// Processes that the program has left behind.
    pub(crate) left_processes: u64,
}

/// The parameters of an operation, apart from its process.
#[derive(Debug)]
pub(crate) struct OperationParams {
    pub(crate) client: Option<ClientId>,
    pub(crate) keyed: Option<KeyedRequest>,
    pub(crate) tag: Option<String>,
    pub(crate) kind: ProcessKind,
    pub(crate) op_id: Option<OpId>,
    pub(crate) encoding: Encoding,
    pub(crate) credit: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) arrived: Instant,
}

impl Operation {
    /// Starts a program by sending its message to the interpreter.
    pub(crate) fn for_exec(
        params: OperationParams,
        mut launch: ExecLaunch,
        limits: &Limits,
    ) -> Self {
        let ready = launch.is_running.then_some(params.arrived);
        let input = launch.input.take();
        let input = input.map(|pipe| Input::new(pipe, false, limits));
        let (mut conversation, io) = Conversation::new(launch);
        conversation.send_message();

        Self {
            conversation: Some(conversation),
            input,
            ready,
            ..Self::from_io(params, io, limits)
        }
    }

    /// Wraps a program that has been started. `terminal`, if given, is its only output.
    pub(crate) fn for_spawn(
        params: OperationParams,
        io: ProcessIo,
        input: Option<Input>,
        terminal: Option<OwnedFd>,
        limits: &Limits,
    ) -> Self {
        let mut operation = Self::from_io(params, io, limits);
        operation.input = input;
        if let Some(terminal) = terminal {
            operation.outputs[0] = OutputStream::of_terminal(Stream::Stdout, terminal);
        }
        operation
    }

    fn from_io(params: OperationParams, io: ProcessIo, limits: &Limits) -> Self {
        let [stdout, stderr, results] = io.outputs;
        let has_key = params.keyed.is_some();
        Self {
            client: params.client,
            keyed: params.keyed,
            tag: params.tag,
            kind: params.kind,
            replay: None,
            framing: Framing {
                op_id: params.op_id,
                encoding: params.encoding,
                seq: 0,
                history: has_key.then(|| OutputHistory::new(limits.replay_bytes)),
            },
            process: io.process,
            conversation: None,
            interpreter_alive: false,
            outputs: [
                OutputStream::new(Stream::Stdout, stdout),
                OutputStream::new(Stream::Stderr, stderr),
                OutputStream::new(Stream::Result, results),
            ],
            input: None,
            control_pipe: io.control_pipe,
            control_buf: Vec::new(),
            credit: params.credit,
            arrived: params.arrived,
            ready: None,
            timeout: params.timeout,
            stopping: None,
            failure: None,
            end: None,
            output_dropped: false,
            stalled_oom_kills: 0,
        }
    }

    /// The slot that the interpreter returns to after the program.
    pub(crate) fn slot(&self) -> Option<&InterpreterSlot> {
        self.conversation.as_ref()?.slot.as_ref()
    }

    /// Whether the interpreter can run another program.
    pub(crate) fn can_reuse_interpreter(&self) -> bool {
        self.control_pipe.is_some() && self.slot().is_some()
    }

    /// Notes that the interpreter has died after the end of the program.
    pub(crate) fn interpreter_died(&mut self) {
        self.interpreter_alive = false;
        self.control_pipe = None;
    }

    /// Returns the interpreter and its slot, after a program that it has survived.
    pub(crate) fn into_interpreter(self) -> Option<(InterpreterSlot, Interpreter)> {
        let io = ProcessIo {
            process: self.process,
            outputs: self.outputs.map(OutputStream::into_pipe),
            control_pipe: self.control_pipe,
        };
        self.conversation?.into_interpreter(io)
    }

    /// The descriptors that a message or input could not be written to completely.
    pub(crate) fn pending_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let conversation = self.conversation.as_ref();
        let message = conversation.and_then(Conversation::pending_fd);
        let input = self.input.as_ref().and_then(Input::pending_fd);
        message.into_iter().chain(input)
    }

    /// Writes as much of the pending message and input as the pipes accept.
    pub(crate) fn write_pending(&mut self) {
        if let Some(conversation) = &mut self.conversation {
            conversation.send_message();
        }
        if let Some(input) = &mut self.input {
            input.write_pending();
        }
    }

    /// The control pipe, while something may still come from it.
    pub(crate) fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control_pipe.as_ref().map(AsFd::as_fd)
    }

    /// The pipe of one stream, while its output can be read and sent.
    pub(crate) fn output_fd(
        &self,
        stream: usize,
        limits: &Limits,
        now: Instant,
    ) -> Option<BorrowedFd<'_>> {
        self.outputs[stream]
            .poll_fd(limits, now)
            .filter(|_| self.credit != Some(0) && self.replay.is_none())
    }

    /// Lets this many more bytes of output be sent.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Gives the client credit for the input that the program has read.
    pub(crate) fn send_input_credit(&mut self, outbox: &mut Outbox, limits: &Limits) {
        let op_id = self.framing.op_id;
        let input = self.input.as_mut();
        if let Some(bytes) = input.and_then(|input| input.take_credit(limits)) {
            outbox.answer(&Response::Credit(InputCredit { op_id, bytes }));
        }
    }

    /// Reads and sends output, at most one chunk of each stream. Earlier output goes first.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox, limits: &Limits, now: Instant) {
        let is_repeated = self.stopping.is_some_and(|stopping| stopping.is_repeated);
        if is_repeated && self.end.is_some() && self.credit == Some(0) {
            self.drop_output();
        }

        if self.replay.is_some() && !self.send_replay(outbox, limits) {
            return;
        }

        // Those with older bytes first, until these are read.
        let is_older = self.outputs.each_ref().map(OutputStream::is_older);
        let of_age = |older: bool| (0..3).filter(move |stream| is_older[*stream] == older);
        for stream in of_age(true).chain(of_age(false)) {
            loop {
                if outbox.is_full(limits) {
                    return;
                }

                // Another process may have read the older bytes.
                let read = self.pump_stream(stream, outbox, limits, now);
                if read == 0 || self.credit == Some(0) || !self.outputs[stream].is_older() {
                    break;
                }
            }
        }
    }

    /// Reads once from a stream, and sends what is due. Returns the number of bytes read.
    fn pump_stream(
        &mut self,
        stream: usize,
        outbox: &mut Outbox,
        limits: &Limits,
        now: Instant,
    ) -> u64 {
        let allowed = self.credit.unwrap_or(u64::MAX);
        let read = self.outputs[stream].read(allowed, outbox, limits, now);
        if let Some(credit) = &mut self.credit {
            *credit -= read;
        }

        // The bytes that other streams hold back are older. At most one stream is in a pause: all others must be noticed
        // when they become readable, since their bytes are then younger than its own.
        if read > 0 {
            let others = self.outputs.iter_mut().enumerate();
            for (_, other) in others.filter(|(number, _)| *number != stream) {
                other.end_pause();
                other.flush(&mut self.framing, outbox, limits, now, true);
            }
        }

        self.outputs[stream].flush(&mut self.framing, outbox, limits, now, false);

        read
    }

    /// Notes that a stream has bytes or is at its end.
    pub(crate) fn output_is_readable(&mut self, stream: usize) {
        let others = self.outputs.iter_mut().enumerate();
        for (_, other) in others.filter(|(number, _)| *number != stream) {
            other.other_is_readable();
        }
        self.outputs[stream].set_readable();
    }

    /// Whether there is output to move without a further event.
    pub(crate) fn has_work(&self) -> bool {
        match self.replay {
            Some(seq) => {
                let history = self.framing.history.as_ref();
                let next = history.and_then(|history| history.get(seq));
                let bytes = next.map_or(0, |(_, bytes)| bytes.len() as u64);
                self.credit.is_none_or(|credit| credit >= bytes)
            }
            None => self.credit != Some(0) && self.outputs.iter().any(OutputStream::has_work),
        }
    }

    /// Whether the program has ended and all its output was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some()
            && self.replay.is_none()
            && self.outputs.iter().all(OutputStream::is_done)
    }

    /// When [`tick`](Self::tick) or a flush is due.
    pub(crate) fn deadline(&self, is_full: bool, limits: &Limits) -> Option<Instant> {
        let timer = match (&self.end, &self.stopping) {
            (Some(_), _) => None,
            (None, None) => self.timeout_at(),
            (None, Some(stopping)) => stopping.next.map(|(_, at)| at),
        };

        let can_read = self.credit != Some(0);
        let outputs = self.outputs.iter();
        let flushes = outputs.filter_map(|output| output.deadline(limits, can_read));
        let flush = flushes.min().filter(|_| !is_full && self.replay.is_none());

        [timer, flush].into_iter().flatten().min()
    }
}
