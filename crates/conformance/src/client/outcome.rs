//! Everything that one operation has sent.

use serde_json::Value;

use super::connection::Connection;
use super::fault::{Check, fail};
use super::message::Message;

/// The output and the end of an operation.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) results: Vec<u8>,
    /// The stream and the number of bytes of each piece of output.
    pub(crate) pieces: Vec<(String, usize)>,
    /// The types of the other responses before the end.
    pub(crate) others: Vec<Message>,
    /// The last response: a `complete`, `error` or other end.
    pub(crate) end: Message,
}

impl Outcome {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The displayed values.
    pub(crate) fn values(&self) -> Check<Vec<Value>> {
        let text = String::from_utf8_lossy(&self.results);
        let lines = text.lines().map(serde_json::from_str).collect();
        match lines {
            Ok(values) => Ok(values),
            Err(error) => fail!("the results are not lines of JSON ({error}): {text}"),
        }
    }

    pub(crate) fn exit_code(&self) -> Option<i64> {
        self.end.number("exit_code")
    }

    pub(crate) fn ended_by(&self) -> &str {
        self.end.text("ended_by")
    }

    /// A field of the `evidence`.
    pub(crate) fn evidence(&self, field: &str) -> &Value {
        &self.end.field("evidence")[field]
    }

    /// Output and end, for messages.
    pub(crate) fn show(&self) -> String {
        let shown = |bytes: &[u8]| super::transcript::shorten(bytes);
        let (out, err) = (shown(&self.stdout), shown(&self.stderr));
        format!("stdout {out:?}, stderr {err:?}, end {}", self.end.show())
    }

    /// Adds a response. Returns whether it is the last one of its operation.
    pub(crate) fn add(&mut self, message: Message) -> Check<bool> {
        let stream = match message.kind() {
            kind @ ("stdout" | "stderr" | "result" | "file") => kind.to_owned(),
            "data" => message.text("stream").to_owned(),
            "complete" | "error" | "transferred" | "done" | "detached" => {
                self.end = message;
                return Ok(true);
            }
            _ => {
                self.others.push(message);
                return Ok(false);
            }
        };

        let bytes = message.bytes()?;
        self.pieces.push((stream.clone(), bytes.len()));
        match stream.as_str() {
            "stderr" => self.stderr.extend(bytes),
            "result" => self.results.extend(bytes),
            "stdout" | "file" => self.stdout.extend(bytes),
            _ => fail!("there is no stream `{stream}`: {}", message.show()),
        }
        Ok(false)
    }
}

impl Connection {
    /// Sends a request and collects the responses without an `op_id` up to its end.
    pub(crate) fn run(&mut self, request: &Value) -> Check<Outcome> {
        self.send(request)?;
        self.collect(request["op_id"].as_i64())
    }

    /// Collects the responses of an operation up to its end.
    pub(crate) fn collect(&mut self, op_id: Option<i64>) -> Check<Outcome> {
        let mut outcome = Outcome::default();
        self.collect_into(&mut outcome, op_id)?;
        Ok(outcome)
    }

    pub(crate) fn collect_into(&mut self, outcome: &mut Outcome, op_id: Option<i64>) -> Check {
        loop {
            let message = self.receive_for(op_id)?;
            if outcome.add(message)? {
                return Ok(());
            }
        }
    }
}

/// The CRC-32C of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_more(0, bytes)
}

/// The CRC-32C of bytes that follow others, bit by bit.
pub(super) fn crc32c_more(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * low);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc32c_of_the_known_text() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
    }
}
