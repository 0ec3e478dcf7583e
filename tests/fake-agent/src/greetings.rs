use serde_json::{Value, json};

use crate::{Line, hang};

const MIB: usize = 1024 * 1024;

/// Answers the host's greeting in this manner; the empty one is well-behaved.
pub(crate) fn greet(line: &mut Line, manner: &str) {
    if manner == "before it is asked" {
        let pongs = "{\"type\":\"pong\",\"version\":\"0\"}\n".repeat(1000);
        loop {
            line.say(&pongs);
        }
    }
    let hello = line.request();
    match manner {
        "" => line.tell(&reply(&hello)),
        "never" => hang(),
        "without a nonce" => {
            let mut reply = reply(&hello);
            reply["nonce"] = Value::Null;
            line.tell(&reply);
            hang();
        }
        "in another version" => {
            let mut reply = reply(&hello);
            reply["protocol"] = json!(4_000_000_000_u32);
            line.tell(&reply);
        }
        "without features" => {
            let mut reply = reply(&hello);
            reply["features"] = json!([]);
            line.tell(&reply);
        }
        "too long" => {
            let mut reply = reply(&hello);
            reply["version"] = json!("x".repeat(4 * MIB));
            line.tell(&reply);
            hang();
        }
        "without end" => loop {
            line.say([b'x'; 4096]);
        },
        "twice" => {
            line.tell(&reply(&hello));
            line.tell(&reply(&hello));
        }
        "without a refresh" => {
            line.tell(&reply(&hello));
            hang();
        }
        "and goes" => return,
        _ => eprintln!("fake agent: nothing is called {manner}"),
    }
    line.request();
    line.tell(&json!({"type": "refreshed", "boot_id": "x"}));
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
