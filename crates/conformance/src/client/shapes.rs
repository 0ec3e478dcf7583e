//! The fields of each response, as the table of the specification lists them.

use serde_json::Value;

use super::message::Message;

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A number of 0 or more, without a fraction.
    Count,
    /// Any number without a fraction.
    Integer,
    Truth,
    List,
    Object,
    /// Text, or an object with base64.
    Chunk,
}

use Kind::{Chunk, Count, Integer, List, Object, Text, Truth};

/// The fields of one type of response.
#[derive(Debug)]
struct Shape {
    kind: &'static str,
    clause: &'static str,
    /// Required in every version.
    required: &'static [(&'static str, Kind)],
    /// Required in version 1.
    required_later: &'static [(&'static str, Kind)],
    optional: &'static [(&'static str, Kind)],
}

const OUTPUT: Shape = Shape {
    kind: "stdout",
    clause: "RESP-3",
    required: &[("chunk", Chunk)],
    required_later: &[],
    optional: &[("seq", Count)],
};

const BARE: Shape = Shape {
    kind: "queued",
    clause: "RESP-8",
    required: &[],
    required_later: &[],
    optional: &[],
};

const SHAPES: &[Shape] = &[
    Shape {
        kind: "pong",
        clause: "RESP-1",
        required: &[("version", Text)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "hello",
        clause: "RESP-2",
        required: &[
            ("version", Text),
            ("protocol", Count),
            ("features", List),
            ("boot_id", Text),
        ],
        required_later: &[],
        optional: &[("nonce", Text)],
    },
    OUTPUT,
    Shape {
        kind: "stderr",
        ..OUTPUT
    },
    Shape {
        kind: "result",
        ..OUTPUT
    },
    Shape {
        kind: "file",
        ..OUTPUT
    },
    Shape {
        kind: "data",
        clause: "RESP-4",
        required: &[("stream", Text), ("seq", Count), ("len", Count)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "complete",
        clause: "RESP-5",
        required: &[("exit_code", Integer), ("execution_time_ms", Count)],
        required_later: &[
            ("ended_by", Text),
            ("evidence", Object),
            ("stdout", Object),
            ("stderr", Object),
        ],
        optional: &[
            ("spawn_ms", Count),
            ("process_ms", Count),
            ("results", Object),
        ],
    },
    Shape {
        kind: "error",
        clause: "RESP-6",
        required: &[("message", Text), ("error_type", Text)],
        required_later: &[],
        optional: &[("errno", Integer), ("version", Text)],
    },
    Shape {
        kind: "started",
        clause: "RESP-7",
        required: &[],
        required_later: &[("pid", Count)],
        optional: &[],
    },
    BARE,
    Shape {
        kind: "detached",
        ..BARE
    },
    Shape {
        kind: "done",
        ..BARE
    },
    Shape {
        kind: "watching",
        ..BARE
    },
    Shape {
        kind: "credit",
        clause: "RESP-9",
        required: &[("bytes", Count)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "attached",
        clause: "RESP-10",
        required: &[("seq", Count)],
        required_later: &[],
        optional: &[
            ("pid", Count),
            ("input_bytes", Count),
            ("input_credit", Count),
        ],
    },
    Shape {
        kind: "processes",
        clause: "RESP-11",
        required: &[("processes", List)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "entry",
        clause: "RESP-12",
        required: &[("entry", Object)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "entries",
        clause: "RESP-13",
        required: &[("entries", List), ("last", Truth)],
        required_later: &[],
        optional: &[("truncated", Truth)],
    },
    Shape {
        kind: "transferred",
        clause: "RESP-14",
        required: &[("bytes", Count), ("crc32c", Count), ("mode", Count)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "change",
        clause: "RESP-15",
        required: &[("kind", Text), ("path", Text)],
        required_later: &[],
        optional: &[],
    },
    Shape {
        kind: "quiesced",
        clause: "RESP-16",
        optional: &[("programs", List), ("program_count", Count)],
        ..BARE
    },
    Shape {
        kind: "refreshed",
        clause: "RESP-17",
        required: &[("boot_id", Text)],
        required_later: &[],
        optional: &[],
    },
];

/// The fields of each process, file and file entry.
const PROCESS: &[(&str, Kind)] = &[
    ("pid", Count),
    ("kind", Text),
    ("command", Text),
    ("attached", Truth),
    ("age_ms", Count),
];
const ENTRY: &[(&str, Kind)] = &[
    ("path", Text),
    ("kind", Text),
    ("size", Count),
    ("mode", Count),
    ("user", Count),
    ("modified_us", Integer),
];

const ERROR_TYPES: [&str; 10] = [
    "agent_error",
    "auth_error",
    "busy_error",
    "code_error",
    "env_var_error",
    "package_error",
    "path_error",
    "protocol_error",
    "refresh_error",
    "request_error",
];
const ENDS: [&str; 7] = [
    "agent_lost",
    "cancelled",
    "exited",
    "out_of_memory",
    "output_limit",
    "signaled",
    "timeout",
];

/// Checks the fields of a response in a conversation of this version. Returns the violated clause and the reason.
pub(super) fn check(message: &Message, version: u32) -> (&'static str, Result<(), String>) {
    let Some(shape) = SHAPES.iter().find(|shape| shape.kind == message.kind()) else {
        return (
            "FRAME-2",
            Err(format!("there is no response of type `{}`", message.kind())),
        );
    };

    let later: &[_] = if version == 0 {
        &[]
    } else {
        shape.required_later
    };
    let required = shape.required.iter().chain(later);
    let missing = required
        .filter(|(name, kind)| !holds(message.field(name), *kind))
        .map(|(name, kind)| format!("`{name}` is missing, or is not of kind {kind:?}"));
    let other = shape
        .required_later
        .iter()
        .chain(shape.optional)
        .chain(&[("op_id", Count)]);
    let mistyped = other
        .filter(|(name, kind)| {
            message.fields.contains_key(*name) && !holds(message.field(name), *kind)
        })
        .map(|(name, kind)| format!("`{name}` is not of kind {kind:?}"));

    let result = match missing.chain(mistyped).next() {
        Some(fault) => Err(format!("{fault}: {}", message.show())),
        None => check_parts(message),
    };
    (shape.clause, result)
}

/// Checks the objects within a response.
fn check_parts(message: &Message) -> Result<(), String> {
    let (parts, fields): (Vec<&Value>, _) = match message.kind() {
        "processes" => (
            message
                .field("processes")
                .as_array()
                .into_iter()
                .flatten()
                .collect(),
            PROCESS,
        ),
        "entries" => (
            message
                .field("entries")
                .as_array()
                .into_iter()
                .flatten()
                .collect(),
            ENTRY,
        ),
        "entry" => (vec![message.field("entry")], ENTRY),
        "error" => return check_word(message, "error_type", &ERROR_TYPES),
        "complete" => return check_word(message, "ended_by", &ENDS),
        _ => return Ok(()),
    };

    for part in parts {
        for (name, kind) in fields {
            if !holds(&part[*name], *kind) {
                return Err(format!(
                    "`{name}` is missing, or is not of kind {kind:?}: {part}"
                ));
            }
        }
    }
    Ok(())
}

/// Checks a field that holds one of some words, if it is there.
fn check_word(message: &Message, field: &str, words: &[&str]) -> Result<(), String> {
    match message.text(field) {
        "" => Ok(()),
        word if words.contains(&word) => Ok(()),
        word => Err(format!(
            "there is no `{field}` of `{word}`: {}",
            message.show()
        )),
    }
}

fn holds(value: &Value, kind: Kind) -> bool {
    match kind {
        Text => value.is_string(),
        Count => value.is_u64(),
        Integer => value.is_i64() || value.is_u64(),
        Truth => value.is_boolean(),
        List => value.is_array(),
        Object => value.is_object(),
        Chunk => value.is_string() || (value["encoding"] == "base64" && value["data"].is_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(json: &str, version: u32) -> (&'static str, bool) {
        let fields = serde_json::from_str(json).unwrap();
        let (clause, result) = check(
            &Message {
                fields,
                frame: Vec::new(),
            },
            version,
        );
        (clause, result.is_ok())
    }

    #[test]
    fn fields_are_checked_by_version() {
        let seed = r#"{"type":"complete","exit_code":0,"execution_time_ms":3}"#;
        assert_eq!(verdict(seed, 0), ("RESP-5", true));
        assert_eq!(verdict(seed, 1), ("RESP-5", false));
        assert_eq!(
            verdict(r#"{"type":"pong","version":1}"#, 0),
            ("RESP-1", false)
        );
        assert_eq!(
            verdict(r#"{"type":"pong","version":"1","new":1}"#, 0),
            ("RESP-1", true)
        );
        assert_eq!(verdict(r#"{"type":"ping"}"#, 0), ("FRAME-2", false));
        assert_eq!(
            verdict(r#"{"type":"entry","entry":{}}"#, 1),
            ("RESP-12", false)
        );
    }
}
