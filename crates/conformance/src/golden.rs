//! Golden transcripts: conversations that an agent must repeat.
//!
//! A transcript has one line for each message: `> ` and a request, `< ` and its response. Lines that start with `#` are
//! remarks. A request is sent when the responses before it have arrived. Values that differ from run to run are `"*"`.

use std::time::Duration;

use serde_json::Value;

use crate::client::{Address, Connection, Fault, Link};

/// Fields whose values differ from run to run, or whose text the specification does not fix.
const VARYING: [&str; 11] = [
    "age_ms",
    "boot_id",
    "execution_time_ms",
    "message",
    "modified_us",
    "pid",
    "pids",
    "process_ms",
    "spawn_ms",
    "user",
    "version",
];

/// Fields that an agent sends if it can measure them. They are left out.
const MEASURED: [&str; 2] = ["cpu_time_us", "peak_memory_bytes"];

/// How long a response may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A transcript could not be repeated.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GoldenError(String);

/// Sends the requests of a transcript, and returns the transcript with the responses that arrived.
///
/// After a group of requests, as many responses are awaited as the transcript has there. A response in the transcript may
/// be just a type, such as `< complete`: then everything up to it is recorded.
///
/// # Errors
/// Fails if the agent cannot be reached, or a response is missing.
pub fn replay(address: &Address, transcript: &str) -> Result<String, GoldenError> {
    let link = Link {
        address: address.clone(),
        deadline: DEADLINE,
        monitor: std::sync::Arc::default(),
        transcript: crate::client::Transcript::default(),
        opened: std::sync::Arc::default(),
    };
    let mut connection = link.open().map_err(|fault| error(&fault, ""))?;
    let mut replayed = String::new();

    for line in transcript.lines() {
        if let Some(expected) = line.strip_prefix("< ") {
            let responses =
                receive(&mut connection, expected).map_err(|fault| error(&fault, &replayed))?;
            replayed.extend(responses);
            continue;
        }
        if let Some(request) = line.strip_prefix("> ") {
            connection
                .line(request)
                .map_err(|fault| error(&fault, &replayed))?;
        }
        replayed += line;
        replayed.push('\n');
    }
    Ok(replayed)
}

fn error(fault: &Fault, replayed: &str) -> GoldenError {
    let (Fault::Failed(text) | Fault::NotOffered(text)) = fault;
    GoldenError(format!("{text}, after\n{replayed}"))
}

/// The next response; if only a type is expected, everything up to a response of that type.
fn receive(connection: &mut Connection, expected: &str) -> Result<Vec<String>, Fault> {
    let mut lines = Vec::new();
    loop {
        let message = connection.receive()?;
        let is_last = expected.starts_with('{') || message.kind() == expected;
        lines.push(format!("< {}\n", normalise(Value::Object(message.fields))));
        if is_last {
            return Ok(lines);
        }
    }
}

fn normalise(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !MEASURED.contains(&name.as_str()));
            for (name, field) in fields.iter_mut() {
                *field = if VARYING.contains(&name.as_str()) {
                    "*".into()
                } else {
                    normalise(field.take())
                };
            }
        }
        Value::Array(parts) => parts
            .iter_mut()
            .for_each(|part| *part = normalise(part.take())),
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varying_values_are_replaced() {
        let line = r#"{"a":[{"pid":5}],"b":1,"evidence":{"cpu_time_us":3}}"#;
        let normal = normalise(serde_json::from_str(line).unwrap());
        assert_eq!(
            normal.to_string(),
            r#"{"a":[{"pid":"*"}],"b":1,"evidence":{}}"#
        );
    }
}
