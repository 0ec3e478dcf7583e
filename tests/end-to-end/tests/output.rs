//! Output is exact, streams as it is produced, and uses bounded memory however much there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fumehood_end_to_end::{DEADLINE, descendants, finish, fumehood, json, resident_mib};

fn run(language: &str, code: &str) -> Command {
    let mut command = fumehood();
    command.args(["run", "-t", "170", "-l", language, "-c", code]);
    command
}

#[test]
fn output_bytes_are_preserved() {
    let code = "import os, time\nos.write(1, b'\\xff')\nos.write(1, b'\\xc3')\ntime.sleep(0.1)\nos.write(1, b'\\xa9')\nos.write(2, bytes(range(256)))";
    let output = finish(run("python", code));
    assert_eq!(output.stdout, [0xff, 0xc3, 0xa9]);
    assert_eq!(output.stderr, (0..=255).collect::<Vec<u8>>());
}

#[test]
fn json_names_the_encoding_and_keeps_the_count() {
    let (outcome, _) = json("python", "import os; os.write(1, b'\\xff\\x00')", &[]);
    assert_eq!(
        (
            outcome["stdout"].as_str(),
            outcome["stdout_encoding"].as_str()
        ),
        (Some("/wA="), Some("base64"))
    );

    let (outcome, _) = json(
        "python",
        "import sys; sys.stdout.write('x' * (11 << 20))",
        &["-t", "120"],
    );
    assert_eq!(outcome["stdout_bytes"], 11 << 20);
    assert_eq!(outcome["stdout_truncated"], true);
    assert_eq!(outcome["stdout"].as_str().unwrap().len(), 10 << 20);
}

#[test]
fn output_appears_as_it_is_produced() {
    let mut child = run(
        "python",
        "import time\nprint('first')\ntime.sleep(60)\nprint('second')",
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();

    let mut first = [0; 6];
    let start = Instant::now();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"first\n");
    assert!(
        start.elapsed() < Duration::from_secs(50),
        "the first line came with the second"
    );
    fumehood_end_to_end::send(child.id(), rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_gigabyte_of_output_uses_bounded_memory() {
    const BYTES: u64 = 1 << 30;
    let code = "import os\nb = b'x' * 65536\nn = 16384\nwhile n: n -= 1; os.write(1, b)";
    let mut command = run("python", code);
    let mut child = command
        .args(["-m", "192"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut total, mut ours, mut qemus) = (0, 0, 0);
    let start = Instant::now();

    loop {
        let n = stdout.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }

        assert!(buffer[..n].iter().all(|&b| b == b'x'));
        let before = total;
        total += n as u64;

        if before >> 26 != total >> 26 {
            ours = ours.max(resident_mib(child.id()));
            qemus = qemus.max(
                descendants(child.id())
                    .into_iter()
                    .map(resident_mib)
                    .max()
                    .unwrap_or(0),
            );
        }

        assert!(
            start.elapsed() < DEADLINE,
            "only {total} bytes in {DEADLINE:?}"
        );
    }

    assert!(child.wait().unwrap().success());
    assert_eq!(total, BYTES);
    println!(
        "1 GiB at {} MB/s; fumehood {ours} MiB, QEMU {qemus} MiB",
        total / 1_000_000 / start.elapsed().as_secs().max(1)
    );
    assert!((1..64).contains(&ours), "fumehood held {ours} MiB");

    // The guest's 192 MiB, 128 MiB of translated code, QEMU itself.
    assert!((1..450).contains(&qemus), "QEMU held {qemus} MiB");
}

#[test]
fn a_slow_reader_slows_the_program() {
    let code = "import os, time\nt = time.monotonic()\nn = 64\nwhile n: n -= 1; os.write(1, b'x' * 1048576)\nos.write(2, str(time.monotonic() - t).encode())";
    let mut child = run("python", code)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 1];
    stdout.read_exact(&mut first).unwrap();

    // No reads for three seconds: the program must wait as long.
    std::thread::sleep(Duration::from_secs(3));
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), (64 << 20) - 1);
    let mut seconds = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut seconds)
        .unwrap();

    assert!(
        seconds.parse::<f64>().unwrap() > 2.0,
        "the program took {seconds} s"
    );
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_closes_ends_the_run() {
    let mut child = run("shell", "yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let mut status = None;
    fumehood_end_to_end::wait_until("the end of a run that nobody reads", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });

    assert_eq!(status.unwrap().code(), Some(141));
}
