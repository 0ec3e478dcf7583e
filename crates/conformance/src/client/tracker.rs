//! What holds for the responses of every operation: numbers, sizes and checksums of its output.

use std::collections::HashMap;

use super::checksum::crc32c_more;
use super::message::Message;

/// The most bytes of output in one response, in bytes: the limit `chunk_bytes`.
const CHUNK_BYTES: usize = 64 * 1024;

/// The operations of one conversation whose output is arriving, by `op_id`.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    operations: HashMap<Option<i64>, Progress>,
}

/// The responses of one operation so far.
#[derive(Debug, Default)]
struct Progress {
    /// The number of the next piece.
    next_seq: u64,
    /// Whether earlier output went elsewhere, so that sums cannot be compared.
    is_partial: bool,
    /// Bytes and checksum of `stdout`, `stderr` and `results`.
    sums: [(u64, u32); 3],
}

const STREAMS: [&str; 3] = ["stdout", "stderr", "result"];

/// A clause that a response violates, and the reason.
pub(super) type Finding = (&'static str, Result<(), String>);

impl Tracker {
    /// Checks a response in a conversation of this version.
    pub(super) fn check(&mut self, message: &Message, version: u32) -> Vec<Finding> {
        let operation = message.op_id();
        match message.kind() {
            "hello" => self.operations.clear(),
            "attached" => {
                let next_seq = message
                    .number("seq")
                    .and_then(|seq| u64::try_from(seq).ok())
                    .unwrap_or(0);
                let progress = Progress {
                    next_seq,
                    is_partial: next_seq > 0,
                    ..Progress::default()
                };
                self.operations.insert(operation, progress);
            }
            "stdout" | "stderr" | "result" | "file" | "data" => {
                let progress = self.operations.entry(operation).or_default();
                return progress.add(message, version);
            }
            "complete" => {
                let progress = self.operations.remove(&operation).unwrap_or_default();
                return progress.compare(message, version);
            }
            "error" | "transferred" | "done" | "detached" => {
                self.operations.remove(&operation);
            }
            _ => {}
        }
        Vec::new()
    }
}

impl Progress {
    fn add(&mut self, message: &Message, version: u32) -> Vec<Finding> {
        let Ok(bytes) = message.bytes() else {
            return vec![(
                "RESP-3",
                Err(format!("its bytes cannot be read: {}", message.show())),
            )];
        };

        let stream = match message.kind() {
            "data" => message.text("stream"),
            kind => kind,
        };
        if let Some(at) = STREAMS.iter().position(|name| *name == stream) {
            let (count, crc) = self.sums[at];
            self.sums[at] = (count + bytes.len() as u64, crc32c_more(crc, &bytes));
        }

        // Text of version 0 may be longer than the bytes that it replaces.
        let max = if version == 0 {
            3 * CHUNK_BYTES
        } else {
            CHUNK_BYTES
        };
        let size_clause = if message.kind() == "data" {
            "OUT-9"
        } else {
            "LIMIT-27"
        };
        let size = match bytes.len() {
            0 => Err(format!("a piece without bytes: {}", message.show())),
            bytes if bytes > max => Err(format!("a piece of {bytes} bytes: {}", message.show())),
            _ => Ok(()),
        };

        let mut findings = vec![(size_clause, size)];
        if let Some(seq) = message.number("seq") {
            let expected = self.next_seq;
            let is_next = u64::try_from(seq) == Ok(expected);
            let verdict = is_next
                .then_some(())
                .ok_or_else(|| format!("piece {expected} was expected: {}", message.show()));
            findings.push(("OUT-4", verdict));
        }
        self.next_seq += 1;
        findings
    }

    fn compare(&self, message: &Message, version: u32) -> Vec<Finding> {
        let is_agents = message.text("ended_by") != "agent_lost";
        let mut findings = vec![(
            "END-7",
            is_agents.then_some(()).ok_or_else(|| message.show()),
        )];
        if version == 0 || self.is_partial {
            return findings;
        }

        for (name, (bytes, crc)) in ["stdout", "stderr", "results"].into_iter().zip(self.sums) {
            let sum = message.field(name);
            let is_left_out = name == "results" && sum.is_null() && bytes == 0;
            let is_equal = is_left_out || (sum["bytes"] == bytes && sum["crc32c"] == crc);
            let verdict = is_equal.then_some(()).ok_or_else(|| {
                format!(
                    "{bytes} bytes of {name} with CRC-32C {crc} arrived: {}",
                    message.show()
                )
            });
            findings.push(("END-9", verdict));
        }
        findings
    }
}
