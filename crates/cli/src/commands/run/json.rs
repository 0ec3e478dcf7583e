//! The JSON forms of `run --json`.

use fumehood_engine::Outcome;
use serde::Serialize;
use serde_json::Value;

use crate::io::CapturedRun;
use crate::outcome::Failure;

/// A run that ended: the engine's outcome, with the captured output.
#[derive(Debug, Serialize)]
pub(super) struct RunReport<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    stdout: String,
    stdout_encoding: &'static str,
    stdout_bytes: u64,
    stdout_truncated: bool,
    stderr: String,
    stderr_encoding: &'static str,
    stderr_bytes: u64,
    stderr_truncated: bool,
    #[serde(flatten)]
    values: Option<ValuesReport>,
}

/// The displayed values, if they were requested.
#[derive(Debug, Serialize)]
struct ValuesReport {
    results: Vec<Value>,
    results_count: u64,
    results_truncated: bool,
}

/// A run without an outcome.
#[derive(Debug, Serialize)]
pub(super) struct FailureReport<'a> {
    pub(super) error: &'a Failure,
}

impl<'a> RunReport<'a> {
    /// Creates a report. `has_values`: displayed values were requested.
    pub(super) fn new(outcome: &'a Outcome, captured: &CapturedRun, has_values: bool) -> Self {
        let CapturedRun {
            stdout,
            stderr,
            results,
        } = captured;
        let (stdout_text, stdout_encoding) = stdout.encoded();
        let (stderr_text, stderr_encoding) = stderr.encoded();

        Self {
            outcome,
            stdout: stdout_text,
            stdout_encoding,
            stdout_bytes: stdout.total(),
            stdout_truncated: stdout.truncated(),
            stderr: stderr_text,
            stderr_encoding,
            stderr_bytes: stderr.total(),
            stderr_truncated: stderr.truncated(),
            values: has_values.then(|| ValuesReport {
                results: results.values(),
                results_count: results.total(),
                results_truncated: results.truncated(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fumehood_engine::Event;
    use serde_json::json;

    use super::*;
    use crate::io::Output;

    #[tokio::test]
    async fn the_form_is_stable() {
        let outcome = json!({
            "exit_code": 1,
            "ended_by": "exited",
            "evidence": {},
            "source": "hot",
            "accelerator": "tcg",
            "isolation": "full",
            "timing": {
                "queue_ms": 0.0, "start_ms": 1.0, "connect_ms": 0.0, "spawn_ms": 0.0, "first_output_ms": null,
                "execute_ms": 0.0, "teardown_ms": 0.0, "total_ms": 2.5,
            },
            "downloads": [{ "remote": "a", "local": "/tmp/a", "bytes": 3 }],
        });
        let parsed: Outcome = serde_json::from_value(outcome.clone()).unwrap();
        let mut output = Output::to_memory();
        for event in [
            Event::Stdout(Bytes::from_static(b"text")),
            Event::Stderr(Bytes::from_static(b"\xff")),
        ] {
            output.write_event(&event).await.unwrap();
        }
        let Output::Captured(captured) = output else {
            unreachable!()
        };

        let mut expected = outcome;
        let streams = json!({
            "stdout": "text", "stdout_encoding": "utf-8", "stdout_bytes": 4, "stdout_truncated": false,
            "stderr": "/w==", "stderr_encoding": "base64", "stderr_bytes": 1, "stderr_truncated": false,
        });
        let values = json!({ "results": [], "results_count": 0, "results_truncated": false });
        let extend = |report: &mut Value, more: Value| {
            let (Value::Object(report), Value::Object(more)) = (report, more) else {
                unreachable!()
            };
            report.extend(more);
        };

        extend(&mut expected, streams);
        let report = RunReport::new(&parsed, &captured, false);
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);

        extend(&mut expected, values);
        let report = RunReport::new(&parsed, &captured, true);
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }

    #[test]
    fn a_failure_has_its_own_form() {
        let failure = Failure {
            kind: "in_use".into(),
            retry: "safe".into(),
            message: "busy".into(),
        };
        let expected = json!({ "error": { "kind": "in_use", "retry": "safe", "message": "busy" } });
        let report = FailureReport { error: &failure };
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
    }
}
