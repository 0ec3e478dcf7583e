use std::time::Instant;

use fumehood_sys::guest::{ChildExit, LaunchFailure};
use rustix::process::Signal;

use super::input::Input;
use super::operation::{Operation, ProgramEnd};
use crate::interpreter::ExecMode;

/// Maximum length of a control message, in bytes: a number of three digits and a newline fit.
const CONTROL_BYTES: usize = 16;
/// The control message for the start of the program.
const PROGRAM_STARTED: &[u8] = b"r\n";

impl Operation {
    /// Reads the control pipe.
    pub(crate) fn read_control(&mut self, now: Instant) {
        let Some(control_pipe) = &self.control_pipe else {
            return;
        };

        let mut received = [0; CONTROL_BYTES];
        match rustix::io::read(control_pipe, &mut received) {
            // The program was executed, or an interpreter that sends no start message has started it.
            Ok(0) => {
                self.control_pipe = None;
                let conversation = self.conversation.as_ref();
                let is_start = conversation.is_none_or(|c| c.mode == ExecMode::OneShot);

                if self.failure.is_none() && is_start {
                    self.ready.get_or_insert(now);
                }

                self.input.iter_mut().for_each(Input::release);
            }
            // A failure report starts with a small number, a control message with a letter or digit.
            Ok(bytes) if received[0] < b' ' && self.ready.is_none() => {
                self.failure = LaunchFailure::decode(&received[..bytes]);
            }
            Ok(bytes) => self.handle_control(&received[..bytes], now),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.control_pipe = None,
        }
    }

    /// Handles a control message: the program has started, or has ended with this exit code.
    fn handle_control(&mut self, bytes: &[u8], now: Instant) {
        let capacity = CONTROL_BYTES - self.control_buf.len().min(CONTROL_BYTES);
        let accepted = &bytes[..bytes.len().min(capacity)];
        self.control_buf.extend_from_slice(accepted);

        if let Some(rest) = self.control_buf.strip_prefix(PROGRAM_STARTED) {
            self.control_buf = rest.to_vec();
            self.ready.get_or_insert(now);
        }

        let is_complete =
            self.control_buf.ends_with(b"\n") || self.control_buf.len() == CONTROL_BYTES;
        let Some(conversation) = self.conversation.as_mut().filter(|_| is_complete) else {
            return;
        };

        if self.end.is_some() || !conversation.ends_by_report(&self.process) {
            return;
        }

        // The program shares the interpreter's process and can forge or break this message. It only affects itself.
        let message = std::str::from_utf8(&self.control_buf).unwrap_or_default();
        let code = message.trim_end().parse::<u8>().map_or(1, i32::from);
        self.outputs.iter_mut().for_each(|output| output.end(now));

        let total = self.process.usage_now();
        let usage = total.since(&conversation.usage);

        let left_processes = match conversation.mode {
            ExecMode::OneShot => self.process.count_others(),
            // Processes that a context has left running stay.
            ExecMode::Prepare | ExecMode::Context => 0,
        };

        if conversation.mode == ExecMode::OneShot {
            // The interpreter has nothing left to do, unless the message was forged.
            self.process.signal(Signal::KILL);
        }

        conversation.usage = total;
        self.input = None;
        self.interpreter_alive = true;
        let ended = ChildExit {
            code: Some(code),
            signal: None,
            cpu_time_us: 0,
            peak_memory_bytes: 0,
        };

        self.end = Some(ProgramEnd {
            ended,
            at: now,
            usage,
            left_processes,
        });
    }

    /// Handles the end of the process, which `reap` then reaps. `is_only`: no other operation is alive.
    pub(crate) fn handle_exit(
        &mut self,
        is_only: bool,
        now: Instant,
        reap: impl FnOnce() -> ChildExit,
    ) {
        let left_processes = self.process.kill_leftovers(is_only);
        // The last control message may not have been read yet.
        self.read_control(now);
        let ended = reap();
        self.control_pipe = None;

        if self.interpreter_alive {
            // That message has ended the program; now its interpreter has ended as well.
            self.interpreter_alive = false;
            if let Some(end) = &mut self.end {
                end.left_processes = left_processes;
            }
            return;
        }

        self.outputs.iter_mut().for_each(|output| output.end(now));
        self.input = None;
        let conversation = self.conversation.as_ref();
        let used_before = conversation.map(|c| c.usage).unwrap_or_default();
        let usage = self.process.usage(&ended).since(&used_before);
        self.end = Some(ProgramEnd {
            ended,
            at: now,
            usage,
            left_processes,
        });
    }
}
