use std::time::{Duration, Instant};

use fumehood_protocol::Limits;
use rustix::process::Signal;

use super::operation::{Operation, StopReason, StopState};
use super::output::OutputStream;
use crate::interpreter::Conversation;

impl Operation {
    /// Starts to stop the program: SIGINT now, SIGTERM and SIGKILL later. If the program has ended already, drops the
    /// output that was not read yet.
    pub(crate) fn stop(&mut self, reason: StopReason, limits: &Limits, now: Instant) {
        if self.end.is_some() {
            self.drop_output();
            return;
        }

        if let Some(stopping) = &mut self.stopping {
            stopping.is_repeated |= reason == StopReason::Cancel;
            return;
        }

        // An interrupt that a program may miss is repeated before SIGTERM.
        self.process.signal(Signal::INT);
        let grace = Duration::from_millis(limits.grace_ms);
        let conversation = self.conversation.as_ref();

        let next = if conversation.is_some_and(Conversation::needs_second_interrupt) {
            (Signal::INT, now + grace / 2)
        } else {
            (Signal::TERM, now + grace)
        };

        self.stopping = Some(StopState {
            reason,
            next: Some(next),
            is_repeated: false,
        });
    }

    /// Drops the output that was not read yet.
    pub(super) fn drop_output(&mut self) {
        self.output_dropped |= !self.outputs.iter().all(OutputStream::is_done);
        self.outputs.iter_mut().for_each(OutputStream::discard);
        self.replay = None;
    }

    /// Kills the largest process, as the kernel would when memory is full.
    pub(crate) fn kill_largest_process(&mut self) {
        self.stalled_oom_kills += 1;
        self.process.kill_largest();
    }

    /// Checks the timers: pauses of the outputs, the timeout, the next signal.
    pub(crate) fn tick(&mut self, limits: &Limits, now: Instant) {
        if self.end.is_some() {
            return;
        }

        self.outputs.iter_mut().for_each(|output| output.tick(now));
        let is_timed_out = self.timeout_at().is_some_and(|at| now >= at);
        let grace = Duration::from_millis(limits.grace_ms);

        match &mut self.stopping {
            None if is_timed_out => self.stop(StopReason::Timeout, limits, now),
            None => {}
            // Each further signal follows after its grace period.
            Some(StopState { next, .. }) => match *next {
                Some((Signal::INT, at)) if now >= at => {
                    self.process.signal(Signal::INT);
                    *next = Some((Signal::TERM, at + grace / 2));
                }
                Some((Signal::TERM, at)) if now >= at => {
                    self.process.signal(Signal::TERM);
                    *next = Some((Signal::KILL, now + grace));
                }
                Some((_, at)) if now >= at => {
                    self.process.kill();
                    *next = None;
                }
                _ => {}
            },
        }
    }

    /// When the timeout passes.
    pub(super) fn timeout_at(&self) -> Option<Instant> {
        self.timeout.map(|timeout| self.arrived + timeout)
    }
}
