//! Runs and their output as JSON: what the command's `run --json` and the HTTP API have in common.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::mime_bundle::MimeBundle;
use super::outcome::{Outcome, Timing};
use crate::host::Isolation;
use crate::network::NetworkOutcome;

/// Output kept of each stream, and of values, in bytes: what one JSON object may hold of it.
pub const KEPT_BYTES: usize = 10 * 1024 * 1024;

/// The output of one stream, up to [`KEPT_BYTES`].
#[derive(Debug, Clone, Default)]
pub struct CapturedOutput {
    kept: Vec<u8>,
    total: u64,
}

impl CapturedOutput {
    /// Keeps what there is room for, and counts the rest.
    pub fn add(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.total += bytes.len() as u64;
    }

    /// The text and `utf-8`, or base64 and `base64`, where the bytes are no text.
    #[must_use]
    pub fn encoded(&self) -> (String, &'static str) {
        match std::str::from_utf8(&self.kept) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (STANDARD.encode(&self.kept), "base64"),
        }
    }

    /// What is kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.kept
    }

    /// Bytes that came, kept or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether something was not kept.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.total > self.kept.len() as u64
    }
}

/// What a value costs beside its JSON, in bytes: a program may show millions of small ones.
const VALUE_COST: usize = 256;

/// The values that a program shows, up to [`KEPT_BYTES`] of JSON.
#[derive(Debug, Clone, Default)]
pub struct DisplayedValues {
    /// As text: parsed, a value may take many times as much.
    kept: Vec<Box<RawValue>>,
    bytes: usize,
    total: u64,
}

impl DisplayedValues {
    /// Keeps it, where there is room, or counts it.
    pub fn add(&mut self, value: &MimeBundle) {
        self.total += 1;
        let Ok(value) = serde_json::value::to_raw_value(value) else {
            return;
        };
        let bytes = value.get().len() + VALUE_COST;
        if self.bytes + bytes <= KEPT_BYTES {
            self.bytes += bytes;
            self.kept.push(value);
        }
    }

    /// What is kept.
    #[must_use]
    pub fn values(&self) -> Vec<Value> {
        let values = self.kept.iter();
        values
            .map(|value| serde_json::from_str(value.get()).unwrap_or_default())
            .collect()
    }

    /// Bytes that are kept, and what each value costs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Values that came, kept or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether something was not kept.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.total > self.kept.len() as u64
    }
}

/// An outcome's fields: `exit_code`, `ended_by`, `evidence`, `source`, `accelerator`, `isolation`, `timing` and,
/// where there was one, `network`.
#[must_use]
pub fn outcome(outcome: &Outcome) -> Map<String, Value> {
    let mut object = Map::new();
    let mut add = |name: &str, value| object.insert(name.into(), value);
    add("exit_code", outcome.exit_code.into());
    add("ended_by", outcome.ended_by.as_str().into());
    let evidence = serde_json::to_value(&outcome.evidence);
    add("evidence", evidence.unwrap_or(Value::Null));
    add("source", outcome.source.as_str().into());
    add("accelerator", outcome.accelerator.to_string().into());
    let walls = outcome.isolation.as_ref().map(isolation);
    add("isolation", walls.into());
    add("timing", timing(&outcome.timing));
    if let Some(told) = &outcome.network {
        add("network", network(told));
    }
    object
}

/// What a guest did on its network, with the `urls` of its exposed ports.
#[must_use]
pub fn network(network: &NetworkOutcome) -> Value {
    let mut told = serde_json::to_value(&network.summary).unwrap_or_default();
    if let Value::Object(told) = &mut told {
        told.insert("urls".into(), network.urls.clone().into());
    }
    told
}

/// `"full"`, or `{"reduced": […]}` with the walls that were missing.
#[must_use]
pub fn isolation(isolation: &Isolation) -> Value {
    match isolation {
        Isolation::Full => "full".into(),
        Isolation::Reduced(missing) => {
            let names: Vec<_> = missing.iter().map(|wall| wall.as_str()).collect();
            json!({ "reduced": names })
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_the_limit_is_counted() {
        let mut captured = CapturedOutput::default();
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
        let mut captured = CapturedOutput::default();
        captured.add(&[0xff]);
        assert_eq!(captured.encoded(), ("/w==".to_string(), "base64"));
    }
}
