use fumehood_engine::report::CapturedOutput;
use serde_json::{Map, Value, json};

use crate::io::CapturedRun;
use crate::outcome::RunResult;
use crate::transfer::{Download, DownloadResult, DownloadedFile};

/// What `run --json` prints of a run that ended. `has_results`: values were asked for.
pub(crate) fn outcome(
    ended: &RunResult,
    kept: &CapturedRun,
    has_results: bool,
    downloads: &[(&Download, DownloadResult)],
) -> Value {
    let mut object = ended.fields();
    stream("stdout", &kept.stdout, &mut object);
    stream("stderr", &kept.stderr, &mut object);
    let mut add = |name: &str, value| object.insert(name.into(), value);
    if has_results {
        let results = &kept.results;
        add("results_truncated", results.truncated().into());
        add("results_count", results.total().into());
        add("results", results.values().into());
    }
    if !downloads.is_empty() {
        add("downloads", downloads.iter().map(download).collect());
    }
    object.into()
}

fn stream(name: &str, captured: &CapturedOutput, object: &mut Map<String, Value>) {
    let (text, encoding) = captured.encoded();
    object.insert(name.into(), text.into());
    object.insert(format!("{name}_encoding"), encoding.into());
    object.insert(format!("{name}_bytes"), captured.total().into());
    object.insert(format!("{name}_truncated"), captured.truncated().into());
}

fn download((asked, came): &(&Download, DownloadResult)) -> Value {
    let remote = &asked.remote;
    match came {
        Ok(DownloadedFile {
            path,
            bytes: Some(bytes),
        }) => {
            json!({ "remote": remote, "local": path.to_string_lossy(), "bytes": bytes })
        }
        Ok(DownloadedFile { path, bytes: None }) => {
            json!({ "remote": remote, "local": path.to_string_lossy() })
        }
        Err(message) => {
            let local = asked.local.to_string_lossy();
            json!({ "remote": remote, "local": local, "error": message })
        }
    }
}

/// What `run --json` prints when there is no outcome.
pub(crate) fn failure(kind: &str, retry: &str, message: &str) -> Value {
    json!({ "error": { "kind": kind, "retry": retry, "message": message } })
}
