//! Output: in time, in order, exact.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Check, Connection, Outcome, ensure, fail};
use crate::lab::{Clause, Lab, python, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new("OUT-1", 0, "the first bytes arrive at once", first_bytes),
    Clause::new("OUT-2", 0, "later output is gathered", gathered),
    Clause::new(
        "OUT-3",
        0,
        "no output waits for more than a moment",
        later_bytes,
    ),
    Clause::observed("OUT-4", 1, "`seq` counts the pieces of an operation from 0"),
    Clause::new(
        "OUT-5",
        1,
        "output and results arrive in the order of the program",
        order,
    ),
    Clause::new(
        "OUT-6",
        1,
        "a chunk is text, or base64 if it is not UTF-8; all bytes are exact",
        exact,
    ),
    Clause::new(
        "OUT-7",
        0,
        "no character is split between two chunks",
        whole_characters,
    ),
    Clause::new(
        "OUT-8",
        0,
        "in version 0, U+FFFD replaces bytes that are not UTF-8",
        replaced,
    ),
    Clause::observed("OUT-9", 1, "a frame has 1 to `chunk_bytes` bytes"),
    Clause::new(
        "OUT-10",
        0,
        "standard output and standard error are separate",
        separate_streams,
    ),
    Clause::new(
        "OUT-11",
        0,
        "a long output is complete and in order",
        long_output,
    ),
];

/// Receives output until there is this text on standard output.
fn wait_for(client: &mut Connection, outcome: &mut Outcome, text: &str) -> Check {
    while !outcome.out().contains(text) {
        let message = client.receive()?;
        if outcome.add(message)? {
            fail!("the program ended: {}", outcome.show());
        }
    }
    Ok(())
}

/// Fails unless this text arrives well before the end of a program that waits for four seconds after it.
fn arrives_before_end(lab: &Lab<'_>, code: &str, text: &str) -> Check {
    let mut client = lab.seed()?;
    let mut outcome = Outcome::default();
    client.send(&shell(&format!("{code}; sleep 4")))?;
    wait_for(&mut client, &mut outcome, text)?;

    let arrived = Instant::now();
    client.collect_into(&mut outcome, None)?;
    let before = arrived.elapsed();
    ensure!(
        before > Duration::from_secs(1),
        "{text:?} arrived {before:?} before the end of a program that waited for 4 seconds"
    );
    succeed(outcome).map(drop)
}

fn first_bytes(lab: &Lab<'_>) -> Check {
    arrives_before_end(lab, "echo first", "first\n")
}

fn later_bytes(lab: &Lab<'_>) -> Check {
    arrives_before_end(lab, "echo first; sleep 0.2; echo second", "second\n")
}

fn gathered(lab: &Lab<'_>) -> Check {
    let code = "import os\nfor n in range(3000): os.write(1, b'%d\\n' % n)";
    let outcome = lab.python(code)?;
    let lines: String = (0..3000).map(|n| format!("{n}\n")).collect();
    ensure!(outcome.out() == lines, "the output: {}", outcome.show());
    ensure!(
        outcome.pieces.len() < 600,
        "3,000 writes arrived in {} pieces",
        outcome.pieces.len()
    );
    Ok(())
}

fn order(lab: &Lab<'_>) -> Check {
    // Only an agent that runs before its programs knows the order of bytes that follow each other at once.
    let (count, pause) = if lab.offers("refresh") {
        (40, 0.0)
    } else {
        (6, 0.15)
    };
    let code = format!(
        "import os, time
for n in range({count}):
    os.write(1 + n % 2, b'%d ' % n)
    time.sleep({pause})
display(1)
time.sleep({pause})
os.write(1, b'last')
None"
    );
    let mut client = lab.hello(&[])?;
    let request = with(python(&code), &json!({"op_id": 1, "display": true}));
    client.send(&request)?;

    let mut all = Vec::new();
    loop {
        let message = client.receive_for(Some(1))?;
        if message.kind() == "complete" {
            break;
        }
        all.extend(message.bytes()?);
    }
    let all = String::from_utf8_lossy(&all);
    let numbers: String = (0..count).map(|n| format!("{n} ")).collect();
    let is_ordered = all.starts_with(&format!("{numbers}{{")) && all.ends_with("}\nlast");
    ensure!(is_ordered, "the pieces in their order: {all:?}");
    Ok(())
}

fn exact(lab: &Lab<'_>) -> Check {
    let code = "import os, random
data = b'text' + random.Random(7).randbytes(200000)
view = memoryview(data)
while view: view = view[os.write(1, view):]
import zlib; os.write(2, b'%d' % zlib.crc32(data))";
    let mut features = vec![&[][..]];
    if lab.offers("raw_frames") {
        features.push(&["raw_frames"]);
    }

    let mut found = Vec::new();
    for features in features {
        let mut client = lab.hello(features)?;
        let outcome = succeed(client.run(&with(python(code), &json!({"op_id": 1})))?)?;
        ensure!(
            outcome.stdout.len() == 200_004,
            "{} bytes arrived",
            outcome.stdout.len()
        );
        ensure!(
            crc32(&outcome.stdout).to_string() == outcome.err(),
            "the bytes are not those of the program"
        );
        found.push(outcome.stdout);
    }
    ensure!(
        found.iter().all(|bytes| *bytes == found[0]),
        "frames and chunks differ"
    );

    let mut client = lab.hello(&[])?;
    client.send(&with(python("print('ü')"), &json!({"op_id": 1})))?;
    let message = client.receive()?;
    ensure!(
        message.text("chunk") == "ü\n",
        "UTF-8 is not sent as text: {}",
        message.show()
    );
    Ok(())
}

/// The CRC-32 that Python's `zlib` computes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

fn whole_characters(lab: &Lab<'_>) -> Check {
    let slowly = "import os, time
for part in (b'\\xc3', b'\\xa9', b'\\xe2\\x82', b'\\xac!', b'\\xf0', b'\\x9f\\x98', b'\\x80'):
    os.write(1, part)
    time.sleep(0.1)";
    let outcome = lab.python(slowly)?;
    ensure!(
        outcome.out() == "é€!😀",
        "characters in several writes: {}",
        outcome.show()
    );

    // Characters of three bytes across the borders of chunks.
    let long = "import os\ndata = ('x' + '€' * 100000).encode()\nwhile data: data = data[os.write(1, data):]";
    let outcome = lab.python(long)?;
    let expected = "x".to_owned() + &"€".repeat(100_000);
    ensure!(
        outcome.out() == expected,
        "characters across chunks: {}",
        outcome.show()
    );
    Ok(())
}

fn replaced(lab: &Lab<'_>) -> Check {
    let code = "import os; os.write(1, b'a\\xffb\\xe2\\x82'); os.write(2, b'\\xfe')";
    let outcome = lab.python(code)?;
    ensure!(
        outcome.out() == "a\u{fffd}b\u{fffd}" && outcome.err() == "\u{fffd}",
        "{}",
        outcome.show()
    );
    Ok(())
}

fn separate_streams(lab: &Lab<'_>) -> Check {
    let outcome = lab.shell("echo out; echo err >&2; echo more")?;
    ensure!(
        outcome.out() == "out\nmore\n" && outcome.err() == "err\n",
        "{}",
        outcome.show()
    );
    Ok(())
}

fn long_output(lab: &Lab<'_>) -> Check {
    let outcome = lab.python("for n in range(200000): print(n)")?;
    let lines: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    ensure!(
        outcome.stdout == lines.as_bytes(),
        "{} of {} bytes arrived, or in another order",
        outcome.stdout.len(),
        lines.len()
    );
    Ok(())
}
