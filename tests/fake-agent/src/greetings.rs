use serde_json::{Value, json};

use crate::connection::{Connection, hang};

const MIB: usize = 1024 * 1024;

/// Answers the host's greeting with this kind of answer; the empty kind is well-behaved.
pub(crate) fn greet(connection: &mut Connection, kind: &str) {
    if kind == "before it is asked" {
        let pongs = "{\"type\":\"pong\",\"version\":\"0\"}\n".repeat(1000);
        loop {
            connection.send(&pongs);
        }
    }

    let hello = connection.next_request();
    match kind {
        "" => connection.send_message(&reply(&hello)),
        "never" => hang(),
        "without a nonce" => {
            let mut reply = reply(&hello);
            reply["nonce"] = Value::Null;
            connection.send_message(&reply);
            hang();
        }
        "in another version" => {
            let mut reply = reply(&hello);
            reply["protocol"] = json!(4_000_000_000_u32);
            connection.send_message(&reply);
        }
        "without features" => {
            let mut reply = reply(&hello);
            reply["features"] = json!([]);
            connection.send_message(&reply);
        }
        "too long" => {
            let mut reply = reply(&hello);
            reply["version"] = json!("x".repeat(4 * MIB));
            connection.send_message(&reply);
            hang();
        }
        "without end" => loop {
            connection.send([b'x'; 4096]);
        },
        "twice" => {
            connection.send_message(&reply(&hello));
            connection.send_message(&reply(&hello));
        }
        "without a refresh" => {
            connection.send_message(&reply(&hello));
            hang();
        }
        "and goes" => return,
        _ => eprintln!("fake agent: unknown greeting `{kind}`"),
    }

    connection.next_request();
    connection.send_message(&json!({"type": "refreshed", "boot_id": "x"}));
}

fn reply(hello: &Value) -> Value {
    json!({
        "type": "hello",
        "version": "0",
        "protocol": hello["protocol"],
        "features": hello["features"],
        "boot_id": "x",
        "nonce": hello["nonce"],
    })
}
