use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::{Outcome, Timing};
use serde_json::{Value, json};

/// Output kept of each stream for `--json`, in bytes.
const KEPT_BYTES: usize = 10 * 1024 * 1024;

/// The output of one stream, up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    kept: Vec<u8>,
    total: u64,
}

impl Captured {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.total += bytes.len() as u64;
    }

    /// The text and `utf-8`, or base64 and `base64`, where the bytes are no text.
    fn encoded(&self) -> (String, &'static str) {
        match std::str::from_utf8(&self.kept) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (STANDARD.encode(&self.kept), "base64"),
        }
    }

    fn truncated(&self) -> bool {
        self.total > self.kept.len() as u64
    }
}

/// What `run --json` prints of a run that ended.
pub(crate) fn outcome(outcome: &Outcome, stdout: &Captured, stderr: &Captured) -> Value {
    let (out, out_encoding) = stdout.encoded();
    let (err, err_encoding) = stderr.encoded();
    json!({
        "stdout": out,
        "stdout_encoding": out_encoding,
        "stdout_bytes": stdout.total,
        "stdout_truncated": stdout.truncated(),
        "stderr": err,
        "stderr_encoding": err_encoding,
        "stderr_bytes": stderr.total,
        "stderr_truncated": stderr.truncated(),
        "exit_code": outcome.exit_code,
        "ended_by": outcome.ended_by.as_str(),
        "evidence": serde_json::to_value(&outcome.evidence).unwrap_or(Value::Null),
        "source": outcome.source.as_str(),
        "accelerator": outcome.accelerator.to_string(),
        "timing": timing(&outcome.timing),
    })
}

/// Milliseconds.
fn timing(timing: &Timing) -> Value {
    let ms = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    json!({
        "queue_ms": ms(timing.queue),
        "start_ms": ms(timing.start),
        "connect_ms": ms(timing.connect),
        "spawn_ms": ms(timing.spawn),
        "first_output_ms": timing.first_output.map(ms),
        "execute_ms": ms(timing.execute),
        "teardown_ms": ms(timing.teardown),
        "total_ms": ms(timing.total),
    })
}

/// What `run --json` prints when there is no outcome.
pub(crate) fn failure(kind: &str, retry: &str, message: &str) -> Value {
    json!({ "error": { "kind": kind, "retry": retry, "message": message } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_the_limit_is_counted() {
        let mut captured = Captured::default();
        captured.add(&vec![b'x'; KEPT_BYTES]);
        assert!(!captured.truncated());
        captured.add(b"y");
        assert!(captured.truncated());
        assert_eq!(
            (captured.kept.len(), captured.total),
            (KEPT_BYTES, KEPT_BYTES as u64 + 1)
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let mut captured = Captured::default();
        captured.add(&[0xff]);
        assert_eq!(captured.encoded(), ("/w==".to_string(), "base64"));
    }
}
