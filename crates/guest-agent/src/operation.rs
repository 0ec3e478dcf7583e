use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fumehood_protocol::{Limits, OpId, Stream};
use fumehood_sys::guest::{Ended, LaunchFailure};
use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::process::Signal;

use crate::cgroup::Usage;
use crate::outbox::Outbox;
use crate::output::{Encoding, Framing, OutputStream};
use crate::process::Process;
use crate::spawn::Spawned;

/// One exec from its request to its `complete`.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) framing: Framing,
    pub(crate) process: Process,
    /// Standard output, standard error.
    pub(crate) outputs: [OutputStream; 2],
    channel: Option<OwnedFd>,
    /// Code that is still to be sent, and how much of it was.
    code: Option<(Vec<u8>, usize)>,
    /// Output bytes that may still be read; none = no flow control.
    credit: Option<u64>,
    pub(crate) arrived: Instant,
    pub(crate) ready: Option<Instant>,
    timeout: Duration,
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
    pub(crate) ended: Ended,
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    pub(crate) left_processes: u64,
}

/// What holds for an exec, beside its process.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) op_id: Option<OpId>,
    pub(crate) encoding: Encoding,
    pub(crate) credit: Option<u64>,
    pub(crate) timeout: Duration,
    pub(crate) arrived: Instant,
}

impl Operation {
    /// A program that has just been started.
    pub(crate) fn new(terms: &Terms, spawned: Spawned) -> Self {
        let Spawned {
            process,
            stdout,
            stderr,
            channel,
            code,
        } = spawned;
        let mut operation = Self {
            framing: Framing {
                op_id: terms.op_id,
                encoding: terms.encoding,
                seq: 0,
            },
            process,
            outputs: [
                OutputStream::new(Stream::Stdout, stdout),
                OutputStream::new(Stream::Stderr, stderr),
            ],
            channel: Some(channel),
            code: code.map(|code| (code, 0)),
            credit: terms.credit,
            arrived: terms.arrived,
            ready: None,
            timeout: terms.timeout,
            stopping: None,
            failure: None,
            end: None,
            dropped: false,
            choked: 0,
        };
        operation.feed();
        operation
    }

    /// The channel and what to wait for on it, while it is open.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let unsent = self.code.is_some();
        let flags = if unsent {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        self.channel
            .as_ref()
            .map(|channel| (channel.as_fd(), flags))
    }

    /// The channel can be read or written.
    pub(crate) fn channel_ready(&mut self, now: Instant) {
        self.feed();
        self.listen(now);
    }

    fn feed(&mut self) {
        let (Some(channel), Some((code, sent))) = (&self.channel, &mut self.code) else {
            return;
        };
        while *sent < code.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(channel, &code[*sent..], flags) {
                Ok(bytes) => *sent += bytes,
                Err(rustix::io::Errno::AGAIN) => return,
                // The interpreter is gone; its end will tell.
                Err(_) => break,
            }
        }
        // The end of the code, for the interpreter.
        let _ = rustix::net::shutdown(channel, Shutdown::Write);
        self.code = None;
    }

    fn listen(&mut self, now: Instant) {
        let Some(channel) = &self.channel else { return };
        let mut report = [0; LaunchFailure::SIZE];
        match rustix::net::recv(channel, &mut report[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.channel = None;
                if self.failure.is_none() {
                    self.ready = Some(now);
                }
            }
            Ok((bytes, _)) => self.failure = LaunchFailure::decode(&report[..bytes]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.channel = None,
        }
    }

    /// The pipe of one stream, while it is worth waiting for.
    pub(crate) fn awaited(&self, stream: usize, limits: &Limits) -> Option<BorrowedFd<'_>> {
        self.outputs[stream]
            .awaited(limits)
            .filter(|_| self.credit != Some(0))
    }

    /// Lets this many more bytes of output pass.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }

    /// Reads and sends what there is, a chunk of each stream at most.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox, limits: &Limits, now: Instant) {
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
        self.credit != Some(0) && self.outputs.iter().any(OutputStream::has_work)
    }

    /// Its process has ended and all its output was handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.end.is_some() && self.outputs.iter().all(OutputStream::is_done)
    }

    /// Begins to end it, unless it has ended or that has begun before.
    pub(crate) fn stop(&mut self, reason: Reason, limits: &Limits, now: Instant) {
        if self.end.is_some() {
            self.dropped = !self.outputs.iter().all(OutputStream::is_done);
            self.outputs.iter_mut().for_each(OutputStream::discard);
        } else if self.stopping.is_none() {
            self.process.signal(Signal::INT);
            let next = now + Duration::from_millis(limits.grace_ms);
            self.stopping = Some(Stopping {
                reason,
                next: Some((Signal::TERM, next)),
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
        match &mut self.stopping {
            None if now >= self.arrived + self.timeout => self.stop(Reason::Timeout, limits, now),
            Some(Stopping { next, .. }) => match *next {
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

    /// When [`tick`](Self::tick) or a flush is due.
    pub(crate) fn deadline(&self, outbox: &Outbox, limits: &Limits) -> Option<Instant> {
        let timer = match (&self.end, &self.stopping) {
            (Some(_), _) => None,
            (None, None) => Some(self.arrived + self.timeout),
            (None, Some(stopping)) => stopping.next.map(|(_, at)| at),
        };
        let flushes = self
            .outputs
            .iter()
            .filter_map(|output| output.deadline(limits));
        let flush = flushes.min().filter(|_| !outbox.is_full(limits));
        [timer, flush].into_iter().flatten().min()
    }

    /// Its process has ended and was not reaped yet; `reap` does that. `alone`: no other operation
    /// is alive.
    pub(crate) fn ended(&mut self, alone: bool, now: Instant, reap: impl FnOnce() -> Ended) {
        let left_processes = self.process.kill_left(alone);
        let ended = reap();
        self.listen(now);
        self.channel = None;
        self.outputs.iter_mut().for_each(OutputStream::end);
        let usage = self.process.usage(&ended);
        self.end = Some(End {
            ended,
            at: now,
            usage,
            left_processes,
        });
    }
}
