use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Line, hang};

const FRAME: usize = 64 * 1024;
/// The CRC-32C of `well` and a newline.
const WELL: u32 = 0x2c75_5834;

/// Does what the request names.
pub(crate) fn answer(line: &mut Line, request: &Value) {
    let id = &request["op_id"];
    let text = |name: &str| request[name].as_str().map(str::to_owned);
    let Some(deed) = text("code").or_else(|| text("path")) else {
        return;
    };
    let deeds = [framed, lines, messages, file];
    if !deeds.iter().any(|does| does(line, id, &deed)) {
        eprintln!("fake agent: nothing is called {deed}");
    }
}

/// Frames that are none.
fn framed(line: &mut Line, id: &Value, deed: &str) -> bool {
    match deed {
        "output without credit" => frames(line, id, "stdout"),
        "output of another" => frame(line, &json!(4711), "stdout", 0, b"x"),
        "output of nobody" => frame(line, &Value::Null, "stdout", 0, b"x"),
        "a frame too long" => announce(line, id, "stdout", 0, FRAME + 1),
        "a frame of 2^64 bytes" => {
            let head = format!(
                r#"{{"type":"data","op_id":{id},"stream":"stdout","seq":0,"len":18446744073709551616}}"#
            );
            line.say(head + "\n");
        }
        "a frame of less than no bytes" => {
            let head =
                format!(r#"{{"type":"data","op_id":{id},"stream":"stdout","seq":0,"len":-1}}"#);
            line.say(head + "\n");
        }
        "a frame that never ends" => {
            announce(line, id, "stdout", 0, FRAME);
            line.say("ten bytes.");
            hang();
        }
        "a later number" => frame(line, id, "stdout", 1, b"x"),
        "the same number twice" => {
            frame(line, id, "stdout", 0, b"x");
            frame(line, id, "stdout", 0, b"x");
        }
        "a byte a second" => slowly(line, id, "stdout"),
        "values of a million forms" => {
            let forms: String = (0..1_000_000).map(|n| format!("\"{n:x}\":0,")).collect();
            let value = format!("{{{}\"x\":0}}\n", forms);
            for (seq, piece) in value.as_bytes().chunks(FRAME).enumerate() {
                if seq > 0 && seq % 8 == 0 {
                    // The credit of what was taken.
                    line.request();
                }
                frame(line, id, "result", seq as u64, piece);
            }
            hang();
        }
        _ => return false,
    }
    true
}

/// Lines that are none.
fn lines(line: &mut Line, id: &Value, deed: &str) -> bool {
    match deed {
        "half a line" => {
            line.say(r#"{"type":"complete","op_id":"#);
            hang();
        }
        "a line without end" => loop {
            line.say([b'x'; 4096]);
        },
        "deep JSON" => line.say("[".repeat(400_000) + "\n"),
        "deep JSON in a message" => {
            let deep = "[".repeat(100_000) + &"]".repeat(100_000);
            line.say(format!(r#"{{"type":"complete","op_id":{id},"exit_code":{deep}}}"#) + "\n");
        }
        "huge numbers" => {
            let complete = r#"{"type":"complete","exit_code":1e999,"execution_time_ms":1e999}"#;
            line.say(complete.to_owned() + "\n");
        }
        "invalid UTF-8" => line.say(b"{\"type\":\"pong\",\"version\":\"\xff\xfe\"}\n"),
        _ => return false,
    }
    true
}

/// Messages that are right, each by itself.
fn messages(line: &mut Line, id: &Value, deed: &str) -> bool {
    let tell = |line: &mut Line, kind: &str, rest: Value| line.tell(&message(kind, id, rest));
    match deed {
        "well" => {
            frame(line, id, "stdout", 0, b"well\n");
            tell(line, "complete", end(5, WELL));
        }
        "a wrong checksum" => {
            frame(line, id, "stdout", 0, b"well\n");
            tell(line, "complete", end(5, 7));
        }
        "an end before the output" => {
            tell(line, "complete", end(5, WELL));
            frame(line, id, "stdout", 0, b"well\n");
        }
        "an end again and again" => loop {
            tell(line, "complete", end(0, 0));
        },
        "a list of files" => tell(line, "entries", json!({"entries": [], "last": true})),
        "pongs" => loop {
            tell(line, "pong", json!({"version": "0"}));
        },
        "credit for nothing" => loop {
            tell(line, "credit", json!({"bytes": 0}));
        },
        "credit without end" => loop {
            tell(line, "credit", json!({"bytes": 1_000_000_000}));
        },
        "beginnings" => loop {
            tell(line, "queued", json!({}));
        },
        "another greeting" => {
            tell(
                line,
                "hello",
                json!({"version": "0", "protocol": 1, "features": [], "boot_id": "x"}),
            );
        }
        "nothing" => hang(),
        "an end of the machine" => std::process::exit(0),
        _ => return false,
    }
    true
}

/// The same for a touch of a file.
fn file(line: &mut Line, id: &Value, path: &str) -> bool {
    let tell = |line: &mut Line, kind: &str, rest: Value| line.tell(&message(kind, id, rest));
    let entry =
        json!({"path": "x", "kind": "file", "size": 1, "mode": 420, "user": 0, "modified_us": 0});
    match path {
        "/another's bytes" => {
            frame(line, id, "file", 0, b"forged");
            tell(
                line,
                "transferred",
                json!({"bytes": 6, "crc32c": 7, "mode": 420}),
            );
        }
        "/without end" => frames(line, id, "file"),
        "/a byte a second" => slowly(line, id, "file"),
        "/as output" => frame(line, id, "stdout", 0, b"x"),
        "/done" => tell(line, "done", json!({})),
        "/a million" => loop {
            let some: Vec<&Value> = std::iter::repeat_n(&entry, 100).collect();
            tell(line, "entries", json!({"entries": some, "last": false}));
        },
        "/none without end" => loop {
            tell(line, "entries", json!({"entries": [], "last": false}));
        },
        "/changes" => {
            tell(line, "watching", json!({}));
            for _ in 0..1_000_000 {
                tell(
                    line,
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

fn announce(line: &mut Line, id: &Value, stream: &str, seq: u64, len: usize) {
    line.tell(&message(
        "data",
        id,
        json!({"stream": stream, "seq": seq, "len": len}),
    ));
}

fn frame(line: &mut Line, id: &Value, stream: &str, seq: u64, bytes: &[u8]) {
    announce(line, id, stream, seq, bytes.len());
    line.say(bytes);
}

fn frames(line: &mut Line, id: &Value, stream: &str) -> ! {
    let bytes = vec![b'x'; FRAME];
    for seq in 0.. {
        frame(line, id, stream, seq, &bytes);
    }
    hang()
}

fn slowly(line: &mut Line, id: &Value, stream: &str) -> ! {
    for seq in 0.. {
        frame(line, id, stream, seq, b"x");
        sleep(Duration::from_secs(1));
    }
    hang()
}
