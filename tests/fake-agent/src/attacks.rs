use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::connection::{Connection, hang};

/// The maximum size of a frame, in bytes.
const FRAME: usize = 64 * 1024;
/// The CRC-32C of `well` and a newline.
const WELL_CRC: u32 = 0x2c75_5834;

/// Runs the attack that the request names.
pub(crate) fn run(connection: &mut Connection, request: &Value) {
    let id = &request["op_id"];
    let text = |name: &str| request[name].as_str().map(str::to_owned);
    let program = || text("cwd").map(|place| format!("a program in {place}"));
    let Some(name) = text("code").or_else(|| text("path")).or_else(program) else {
        return;
    };

    let groups = [frame_attack, line_attack, message_attack, file_attack];
    if !groups.iter().any(|run| run(connection, id, &name)) {
        eprintln!("fake agent: unknown attack `{name}`");
    }
}

/// Runs an attack by invalid frames. Returns whether the name is one of these.
fn frame_attack(connection: &mut Connection, id: &Value, name: &str) -> bool {
    match name {
        "output without credit" => frames(connection, id, "stdout"),
        "output of another" => frame(connection, &json!(4711), "stdout", 0, b"x"),
        "output of nobody" => frame(connection, &Value::Null, "stdout", 0, b"x"),
        "a frame too long" => announce(connection, id, "stdout", 0, FRAME + 1),
        "a frame of 2^64 bytes" => {
            let head = format!(
                r#"{{"type":"data","op_id":{id},"stream":"stdout","seq":0,"len":18446744073709551616}}"#
            );
            connection.send(head + "\n");
        }
        "a frame of less than no bytes" => {
            let head =
                format!(r#"{{"type":"data","op_id":{id},"stream":"stdout","seq":0,"len":-1}}"#);
            connection.send(head + "\n");
        }
        "a frame that never ends" => {
            announce(connection, id, "stdout", 0, FRAME);
            connection.send("ten bytes.");
            hang();
        }
        "a later number" => frame(connection, id, "stdout", 1, b"x"),
        "the same number twice" => {
            frame(connection, id, "stdout", 0, b"x");
            frame(connection, id, "stdout", 0, b"x");
        }
        "a byte a second" | "a program in /a byte a second" => slowly(connection, id, "stdout"),
        "values of a million forms" => {
            let forms: String = (0..1_000_000).map(|n| format!("\"{n:x}\":0,")).collect();
            let value = format!("{{{}\"x\":0}}\n", forms);
            for (seq, piece) in value.as_bytes().chunks(FRAME).enumerate() {
                if seq > 0 && seq % 8 == 0 {
                    // Wait for the credit of the consumed frames.
                    connection.next_request();
                }
                frame(connection, id, "result", seq as u64, piece);
            }

            hang();
        }
        _ => return false,
    }

    true
}

/// Runs an attack by invalid lines. Returns whether the name is one of these.
fn line_attack(connection: &mut Connection, id: &Value, name: &str) -> bool {
    match name {
        "half a line" => {
            connection.send(r#"{"type":"complete","op_id":"#);
            hang();
        }
        "a line without end" => loop {
            connection.send([b'x'; 4096]);
        },
        "deep JSON" => connection.send("[".repeat(400_000) + "\n"),
        "deep JSON in a message" => {
            let deep = "[".repeat(100_000) + &"]".repeat(100_000);
            connection
                .send(format!(r#"{{"type":"complete","op_id":{id},"exit_code":{deep}}}"#) + "\n");
        }
        "huge numbers" => {
            let complete = r#"{"type":"complete","exit_code":1e999,"execution_time_ms":1e999}"#;
            connection.send(complete.to_owned() + "\n");
        }
        "invalid UTF-8" => connection.send(b"{\"type\":\"pong\",\"version\":\"\xff\xfe\"}\n"),
        _ => return false,
    }

    true
}

/// Runs an attack by messages that are valid individually. Returns whether the name is one of these.
fn message_attack(connection: &mut Connection, id: &Value, name: &str) -> bool {
    let send = |connection: &mut Connection, kind: &str, rest: Value| {
        connection.send_message(&message(kind, id, rest));
    };
    match name {
        "well" => {
            frame(connection, id, "stdout", 0, b"well\n");
            send(connection, "complete", end(5, WELL_CRC));
        }
        "a wrong checksum" => {
            frame(connection, id, "stdout", 0, b"well\n");
            send(connection, "complete", end(5, 7));
        }
        "an end before the output" => {
            send(connection, "complete", end(5, WELL_CRC));
            frame(connection, id, "stdout", 0, b"well\n");
        }
        "an end again and again" => loop {
            send(connection, "complete", end(0, 0));
        },
        "a list of files" => send(connection, "entries", json!({"entries": [], "last": true})),
        "pongs" => loop {
            send(connection, "pong", json!({"version": "0"}));
        },
        "credit for nothing" => loop {
            send(connection, "credit", json!({"bytes": 0}));
        },
        "credit without end" => loop {
            send(connection, "credit", json!({"bytes": 1_000_000_000}));
        },
        "beginnings" => loop {
            send(connection, "queued", json!({}));
        },
        "another greeting" => {
            send(
                connection,
                "hello",
                json!({"version": "0", "protocol": 1, "features": [], "boot_id": "x"}),
            );
        }
        "nothing" | "a program in /nothing" => hang(),
        "an end of the machine" => std::process::exit(0),
        _ => return false,
    }

    true
}

/// Runs an attack on a file request. Returns whether the path is one of these.
fn file_attack(connection: &mut Connection, id: &Value, path: &str) -> bool {
    let send = |connection: &mut Connection, kind: &str, rest: Value| {
        connection.send_message(&message(kind, id, rest));
    };
    let entry =
        json!({"path": "x", "kind": "file", "size": 1, "mode": 420, "user": 0, "modified_us": 0});

    match path {
        "/another's bytes" => {
            frame(connection, id, "file", 0, b"forged");
            send(
                connection,
                "transferred",
                json!({"bytes": 6, "crc32c": 7, "mode": 420}),
            );
        }
        "/without end" => frames(connection, id, "file"),
        "/a byte a second" => slowly(connection, id, "file"),
        "/as output" => frame(connection, id, "stdout", 0, b"x"),
        "/done" | "/nothing" => send(connection, "done", json!({})),
        "/nothing/." => send(connection, "entry", json!({"entry": entry})),
        "/a million" => loop {
            let some: Vec<&Value> = std::iter::repeat_n(&entry, 100).collect();
            send(
                connection,
                "entries",
                json!({"entries": some, "last": false}),
            );
        },
        "/none without end" => loop {
            send(connection, "entries", json!({"entries": [], "last": false}));
        },
        "/changes" => {
            send(connection, "watching", json!({}));
            for _ in 0..1_000_000 {
                send(
                    connection,
                    "change",
                    json!({"kind": "created", "path": "x".repeat(500)}),
                );
            }

            hang();
        }
        _ => return false,
    }

    true
}

fn message(kind: &str, id: &Value, rest: Value) -> Value {
    let mut message = json!({"type": kind, "op_id": id});
    if let (Some(message), Value::Object(rest)) = (message.as_object_mut(), rest) {
        message.extend(rest);
    }
    message
}

fn end(bytes: u64, crc32c: u32) -> Value {
    json!({
        "exit_code": 0,
        "execution_time_ms": 1,
        "ended_by": "exited",
        "stdout": {"bytes": bytes, "crc32c": crc32c},
    })
}

fn announce(connection: &mut Connection, id: &Value, stream: &str, seq: u64, len: usize) {
    connection.send_message(&message(
        "data",
        id,
        json!({"stream": stream, "seq": seq, "len": len}),
    ));
}

fn frame(connection: &mut Connection, id: &Value, stream: &str, seq: u64, bytes: &[u8]) {
    announce(connection, id, stream, seq, bytes.len());
    connection.send(bytes);
}

fn frames(connection: &mut Connection, id: &Value, stream: &str) -> ! {
    let bytes = vec![b'x'; FRAME];
    for seq in 0.. {
        frame(connection, id, stream, seq, &bytes);
    }
    hang()
}

fn slowly(connection: &mut Connection, id: &Value, stream: &str) -> ! {
    for seq in 0.. {
        frame(connection, id, stream, seq, b"x");
        sleep(Duration::from_secs(1));
    }
    hang()
}
