use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{InputCredit, Limits, OpId, ProcessKind, Response, Stream};
use fumehood_sys::guest::{ChildExit, LaunchFailure};
use rustix::process::Signal;

use crate::cgroup::Usage;
use crate::input::Input;
use crate::interpreter::{Interpreter, Mode};
use crate::journal::{Keyed, Pieces};
use crate::kept::Home;
use crate::operations::ClientId;
use crate::outbox::Outbox;
use crate::output::{Encoding, Framing, OutputStream};
use crate::process::Process;
use crate::talk::{Begun, Parts, Talk};

/// One exec or spawn from its request to its `complete`.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Who follows it; none = it goes on by itself.
    pub(crate) client: Option<ClientId>,
    pub(crate) keyed: Option<Keyed>,
    /// A word for people.
    pub(crate) tag: Option<String>,
    pub(crate) kind: ProcessKind,
    pub(crate) framing: Framing,
    /// The next piece of what was said before that its client wants.
    pub(crate) replay: Option<u64>,
    pub(crate) process: Process,
    /// With its interpreter, where it is an exec.
    pub(crate) talk: Option<Talk>,
    /// The program has ended and the interpreter has not, or not yet.
    pub(crate) survived: bool,
    /// Standard output, standard error, results.
    pub(crate) outputs: [OutputStream; 3],
    pub(crate) input: Option<Input>,
    words: Option<OwnedFd>,
    /// What the interpreter has said so far.
    word: Vec<u8>,
    /// Output bytes that may still be read; none = no flow control.
    pub(crate) credit: Option<u64>,
    pub(crate) arrived: Instant,
    pub(crate) ready: Option<Instant>,
    /// None: it may run on.
    timeout: Option<Duration>,
    pub(crate) stopping: Option<Stopping>,
    pub(crate) failure: Option<LaunchFailure>,
    pub(crate) end: Option<End>,
    /// Output was dropped, since the operation was cancelled while nobody took it.
    pub(crate) dropped: bool,
    /// Processes of it that were killed since memory was full and nothing got on.
    pub(crate) choked: u64,
}

/// Why an operation is being ended, and how far that has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopping {
    pub(crate) reason: Reason,
    next: Option<(Signal, Instant)>,
}

/// Who wants an operation to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its time is up.
    Timeout,
    /// The client.
    Cancel,
}

/// The end of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) ended: ChildExit,
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    pub(crate) left_processes: u64,
}

/// A word of an interpreter at most, in bytes: a number of three digits and a newline fit.
const WORD_BYTES: usize = 16;
/// The word that says that the program begins.
const BEGINS: &[u8] = b"r\n";

/// What holds for an operation, beside its process.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) client: Option<ClientId>,
    pub(crate) keyed: Option<Keyed>,
    pub(crate) tag: Option<String>,
    pub(crate) kind: ProcessKind,
    pub(crate) op_id: Option<OpId>,
    pub(crate) encoding: Encoding,
    pub(crate) credit: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) arrived: Instant,
}

impl Operation {
    /// A program that begins now, by a message to its interpreter.
    pub(crate) fn new(terms: Terms, begun: Begun, limits: &Limits) -> Self {
        let ready = begun.is_up.then_some(terms.arrived);
        let mut begun = begun;
        let input = begun.input.take();
        let input = input.map(|pipe| Input::new(pipe, false, limits));
        let (mut talk, parts) = Talk::new(begun);
        talk.feed();
        Self {
            talk: Some(talk),
            input,
            ready,
            ..Self::of(terms, parts, limits)
        }
    }

    /// A process that has been started. `terminal`: its one output.
    pub(crate) fn spawned(
        terms: Terms,
        parts: Parts,
        input: Option<Input>,
        terminal: Option<OwnedFd>,
        limits: &Limits,
    ) -> Self {
        let mut operation = Self::of(terms, parts, limits);
        operation.input = input;
        if let Some(terminal) = terminal {
            operation.outputs[0] = OutputStream::of_terminal(Stream::Stdout, terminal);
        }
        operation
    }

    fn of(terms: Terms, parts: Parts, limits: &Limits) -> Self {
        let [stdout, stderr, results] = parts.outputs;
        let kept = terms.keyed.is_some();
        Self {
            client: terms.client,
            keyed: terms.keyed,
            tag: terms.tag,
            kind: terms.kind,
            replay: None,
            framing: Framing {
                op_id: terms.op_id,
                encoding: terms.encoding,
                seq: 0,
                kept: kept.then(|| Pieces::new(limits.replay_bytes)),
            },
            process: parts.process,
            talk: None,
            survived: false,
            outputs: [
                OutputStream::new(Stream::Stdout, stdout),
                OutputStream::new(Stream::Stderr, stderr),
                OutputStream::new(Stream::Result, results),
            ],
            input: None,
            words: parts.words,
            word: Vec::new(),
            credit: terms.credit,
            arrived: terms.arrived,
            ready: None,
            timeout: terms.timeout,
            stopping: None,
            failure: None,
            end: None,
            dropped: false,
            choked: 0,
        }
    }

    /// Where the interpreter goes back to.
    pub(crate) fn home(&self) -> Option<&Home> {
        self.talk.as_ref()?.home.as_ref()
    }

    /// The interpreter can be told of another program.
    pub(crate) fn can_go_on(&self) -> bool {
        self.words.is_some() && self.home().is_some()
    }

    /// Its process has died after the program's end.
    pub(crate) fn died(&mut self) {
        self.survived = false;
        self.words = None;
    }

    /// The interpreter and where it goes back to, after a program that it survived.
    pub(crate) fn into_interpreter(self) -> Option<(Home, Interpreter)> {
        let parts = Parts {
            process: self.process,
            outputs: self.outputs.map(OutputStream::into_pipe),
            words: self.words,
        };
        self.talk?.into_interpreter(parts)
    }

    /// Where something goes to that was not taken yet: a message, or input.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let message = self.talk.as_ref().and_then(Talk::unsent);
        message
            .into_iter()
            .chain(self.input.as_ref().and_then(Input::unsent))
    }

    /// Sends what is taken of it.
    pub(crate) fn feed(&mut self) {
        if let Some(talk) = &mut self.talk {
            talk.feed();
        }
        if let Some(input) = &mut self.input {
            input.feed();
        }
    }

    /// Where the interpreter's words come from, while it may still say something.
    pub(crate) fn words(&self) -> Option<BorrowedFd<'_>> {
        self.words.as_ref().map(AsFd::as_fd)
    }

    /// Takes what the interpreter has said.
    pub(crate) fn listen(&mut self, now: Instant) {
        let Some(words) = &self.words else { return };
        let mut heard = [0; WORD_BYTES];
        match rustix::io::read(words, &mut heard) {
            Ok(0) => {
                self.words = None;
                let ends = self.talk.as_ref().is_none_or(|t| t.mode == Mode::Once);
                if self.failure.is_none() && ends {
                    self.ready.get_or_insert(now);
                }
                self.input.iter_mut().for_each(Input::release);
            }
            // The report of a failure to start begins with a small number, a word with a letter or digit.
            Ok(bytes) if heard[0] < b' ' && self.ready.is_none() => {
                self.failure = LaunchFailure::decode(&heard[..bytes]);
            }
            Ok(bytes) => self.hear(&heard[..bytes], now),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.words = None,
        }
    }

    /// The interpreter's own word: that the program begins, or that it has ended, with its exit code.
    fn hear(&mut self, bytes: &[u8], now: Instant) {
        let room = WORD_BYTES - self.word.len().min(WORD_BYTES);
        self.word.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(rest) = self.word.strip_prefix(BEGINS) {
            self.word = rest.to_vec();
            self.ready.get_or_insert(now);
        }
        let is_whole = self.word.ends_with(b"\n") || self.word.len() == WORD_BYTES;
        let Some(talk) = self.talk.as_mut().filter(|_| is_whole) else {
            return;
        };
        if self.end.is_some() || !talk.ends_by_word(&self.process) {
            return;
        }
        let word = std::str::from_utf8(&self.word).unwrap_or_default();
        // The program shares the interpreter's process, and can spoil its own end.
        let code = word.trim_end().parse::<u8>().map_or(1, i32::from);
        self.outputs.iter_mut().for_each(|output| output.end(now));
        let total = self.process.usage_now();
        let usage = total.since(&talk.used);
        let left_processes = match talk.mode {
            Mode::Once => self.process.count_others(),
            // What a context leaves running stays.
            Mode::Prepare | Mode::Context => 0,
        };
        if talk.mode == Mode::Once {
            // It has nothing left to do, but for one that only says so.
            self.process.signal(Signal::KILL);
        }
        talk.used = total;
        self.input = None;
        self.survived = true;
        let ended = ChildExit {
            code: Some(code),
            signal: None,
            cpu_time_us: 0,
            peak_memory_bytes: 0,
        };
        self.end = Some(End {
            ended,
            at: now,
            usage,
            left_processes,
        });
    }

    /// The pipe of one stream, while it is worth waiting for.
    pub(crate) fn awaited(
        &self,
        stream: usize,
        limits: &Limits,
        now: Instant,
    ) -> Option<BorrowedFd<'_>> {
        self.outputs[stream]
            .awaited(limits, now)
            .filter(|_| self.credit != Some(0) && self.replay.is_none())
    }

    /// Lets this many more bytes of output pass.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Lets the client send as much input as was taken.
    pub(crate) fn give_credit(&mut self, outbox: &mut Outbox, limits: &Limits) {
        let op_id = self.framing.op_id;
        let input = self.input.as_mut();
        if let Some(bytes) = input.and_then(|input| input.credit(limits)) {
            outbox.answer(&Response::Credit(InputCredit { op_id, bytes }));
        }
    }

    /// Reads and sends what there is, a chunk of each stream at most.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox, limits: &Limits, now: Instant) {
        if self.replay.is_some() && !self.tell_again(outbox, limits) {
            return;
        }
        for output in &mut self.outputs {
            if outbox.is_full(limits) {
                return;
            }
            let read = output.read(self.credit.unwrap_or(u64::MAX), outbox, limits, now);
            if let Some(credit) = &mut self.credit {
                *credit -= read;
            }
            output.flush(&mut self.framing, outbox, limits, now);
        }
    }

    /// There is output to move without waiting for the program.
    pub(crate) fn has_work(&self) -> bool {
        match self.replay {
            Some(seq) => {
                let next = self.framing.kept.as_ref().and_then(|kept| kept.get(seq));
                let bytes = next.map_or(0, |(_, bytes)| bytes.len() as u64);
                self.credit.is_none_or(|credit| credit >= bytes)
            }
            None => self.credit != Some(0) && self.outputs.iter().any(OutputStream::has_work),
        }
    }

    /// Its process has ended and all its output was handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some()
            && self.replay.is_none()
            && self.outputs.iter().all(OutputStream::is_done)
    }

    /// Begins to end it, unless it has ended or that has begun before.
    pub(crate) fn stop(&mut self, reason: Reason, limits: &Limits, now: Instant) {
        if self.end.is_some() {
            self.dropped |= !self.outputs.iter().all(OutputStream::is_done);
            self.outputs.iter_mut().for_each(OutputStream::discard);
            self.replay = None;
        } else if self.stopping.is_none() {
            self.process.signal(Signal::INT);
            let grace = Duration::from_millis(limits.grace_ms);
            // Bash may have been about to make the child that it waits for now, Python about to sleep.
            let again = self.talk.as_ref().is_some_and(Talk::wants_two_interrupts);
            let next = if again {
                (Signal::INT, now + grace / 2)
            } else {
                (Signal::TERM, now + grace)
            };
            self.stopping = Some(Stopping {
                reason,
                next: Some(next),
            });
        }
    }

    /// Kills its largest process for want of memory, as the kernel would.
    pub(crate) fn choke(&mut self) {
        self.choked += 1;
        self.process.kill_largest();
    }

    /// What time has brought: the end of its time, the next signal.
    pub(crate) fn tick(&mut self, limits: &Limits, now: Instant) {
        if self.end.is_some() {
            return;
        }
        self.outputs.iter_mut().for_each(|output| output.tick(now));
        let is_due = self.due().is_some_and(|due| now >= due);
        match &mut self.stopping {
            None if is_due => {
                self.stop(Reason::Timeout, limits, now);
            }
            Some(Stopping { next, .. }) => match *next {
                Some((Signal::INT, at)) if now >= at => {
                    self.process.signal(Signal::INT);
                    *next = Some((
                        Signal::TERM,
                        at + Duration::from_millis(limits.grace_ms) / 2,
                    ));
                }
                Some((Signal::TERM, at)) if now >= at => {
                    self.process.signal(Signal::TERM);
                    *next = Some((Signal::KILL, now + Duration::from_millis(limits.grace_ms)));
                }
                Some((_, at)) if now >= at => {
                    self.process.kill();
                    *next = None;
                }
                _ => {}
            },
            None => {}
        }
    }

    /// When its time is up.
    fn due(&self) -> Option<Instant> {
        self.timeout.map(|timeout| self.arrived + timeout)
    }

    /// When [`tick`](Self::tick) or a flush is due.
    pub(crate) fn deadline(&self, is_full: bool, limits: &Limits) -> Option<Instant> {
        let timer = match (&self.end, &self.stopping) {
            (Some(_), _) => None,
            (None, None) => self.due(),
            (None, Some(stopping)) => stopping.next.map(|(_, at)| at),
        };
        let can_read = self.credit != Some(0);
        let flushes = self
            .outputs
            .iter()
            .filter_map(|output| output.deadline(limits, can_read));
        let flush = flushes.min().filter(|_| !is_full && self.replay.is_none());
        [timer, flush].into_iter().flatten().min()
    }

    /// Its process has ended and was not reaped yet; `reap` does that. `alone`: no other operation
    /// is alive.
    pub(crate) fn ended(&mut self, alone: bool, now: Instant, reap: impl FnOnce() -> ChildExit) {
        let left_processes = self.process.kill_left(alone);
        self.listen(now);
        let ended = reap();
        self.words = None;
        if self.survived {
            // The program had ended before, and only the word of it had not been heard.
            self.survived = false;
            if let Some(end) = &mut self.end {
                end.left_processes = left_processes;
            }
            return;
        }
        self.outputs.iter_mut().for_each(|output| output.end(now));
        self.input = None;
        let used = self.talk.as_ref().map(|talk| talk.used).unwrap_or_default();
        let usage = self.process.usage(&ended).since(&used);
        self.end = Some(End {
            ended,
            at: now,
            usage,
            left_processes,
        });
    }
}
