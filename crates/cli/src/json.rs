use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_engine::{Isolation, MimeBundle, Outcome, Timing};
use serde_json::{Map, Value, json};

use crate::output::Kept;
use crate::transfer::{Download, Downloaded};

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

/// The values that a program shows, up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    kept: Vec<Value>,
    bytes: usize,
    total: u64,
}

impl Shown {
    pub(crate) fn add(&mut self, value: &MimeBundle) {
        self.total += 1;
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let bytes = value.to_string().len();
        if self.bytes + bytes <= KEPT_BYTES {
            self.bytes += bytes;
            self.kept.push(value);
        }
    }
}

/// What `run --json` prints of a run that ended. `has_results`: values were asked for.
pub(crate) fn outcome(
    outcome: &Outcome,
    kept: &Kept,
    has_results: bool,
    downloads: &[(&Download, Downloaded)],
) -> Value {
    let mut object = Map::new();
    stream("stdout", &kept.stdout, &mut object);
    stream("stderr", &kept.stderr, &mut object);
    let mut add = |name: &str, value| object.insert(name.into(), value);
    if has_results {
        let results = &kept.results;
        add(
            "results_truncated",
            (results.total > results.kept.len() as u64).into(),
        );
        add("results_count", results.total.into());
        add("results", results.kept.clone().into());
    }
    add("exit_code", outcome.exit_code.into());
    add("ended_by", outcome.ended_by.as_str().into());
    let evidence = serde_json::to_value(&outcome.evidence);
    add("evidence", evidence.unwrap_or(Value::Null));
    add("source", outcome.source.as_str().into());
    add("accelerator", outcome.accelerator.to_string().into());
    add(
        "isolation",
        outcome.isolation.as_ref().map(isolation).into(),
    );
    add("timing", timing(&outcome.timing));
    if let Some(network) = &outcome.network {
        let mut told = serde_json::to_value(&network.summary).unwrap_or_default();
        if let Value::Object(told) = &mut told {
            told.insert("urls".into(), network.urls.clone().into());
        }
        add("network", told);
    }
    if !downloads.is_empty() {
        add("downloads", downloads.iter().map(download).collect());
    }
    object.into()
}

fn stream(name: &str, captured: &Captured, object: &mut Map<String, Value>) {
    let (text, encoding) = captured.encoded();
    object.insert(name.into(), text.into());
    object.insert(format!("{name}_encoding"), encoding.into());
    object.insert(format!("{name}_bytes"), captured.total.into());
    object.insert(format!("{name}_truncated"), captured.truncated().into());
}

fn download((asked, came): &(&Download, Downloaded)) -> Value {
    let remote = &asked.remote;
    match came {
        Ok((local, Some(bytes))) => {
            json!({ "remote": remote, "local": local.to_string_lossy(), "bytes": bytes })
        }
        Ok((local, None)) => json!({ "remote": remote, "local": local.to_string_lossy() }),
        Err(message) => {
            let local = asked.local.to_string_lossy();
            json!({ "remote": remote, "local": local, "error": message })
        }
    }
}

/// `"full"`, or `{"reduced": […]}` with the walls that were missing.
fn isolation(isolation: &Isolation) -> Value {
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
