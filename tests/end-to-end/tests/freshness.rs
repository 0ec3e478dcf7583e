//! Clones of one template differ: each has its own clock, randomness and identity.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use fumehood_end_to_end::{engine, finish_ok, repetitions};
use fumehood_engine::{Accelerator, Engine, Language, Outcome, RunRequest, VmOrigin};
use futures_util::{StreamExt, stream};

/// Where the VMs of these tests come from: a guest that was saved with others of the same past.
fn saved_origin(engine: &Engine) -> VmOrigin {
    match engine.accelerator() {
        Accelerator::Kvm => VmOrigin::Template,
        Accelerator::Tcg => VmOrigin::HotImage,
    }
}

async fn output(engine: &Engine, language: Language, code: &str) -> (String, Outcome) {
    let request = RunRequest::new(language, code).timeout_s(120);
    finish_ok(engine.run(request).unwrap()).await
}

/// How many clones run at a time.
const AT_ONCE: usize = 2;

/// Runs the same code in `count` clones, [`AT_ONCE`] at a time; each prints values, one a line. No value is
/// printed by two of them. Returns the lines of each.
async fn assert_all_differ(
    engine: &Engine,
    language: Language,
    code: &'static str,
    count: usize,
) -> Vec<Vec<String>> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();

    let clones = stream::iter(0..count).map(|_| output(engine, language, code));
    let mut clones = clones.buffer_unordered(AT_ONCE);
    while let Some((text, outcome)) = clones.next().await {
        assert_eq!(outcome.source, VmOrigin::HotImage, "{outcome:?}");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, line) in lines.iter().enumerate() {
            assert!(
                seen.insert((at, line.clone())),
                "line {at} of two clones is `{line}`"
            );
        }
        all.push(lines);
    }

    all
}

const PYTHON: &str = "
import random, uuid, os, secrets, tempfile, ssl, numbers
print(random.random())
print(random.getrandbits(64), random.sample(range(10**9), 3))
print(uuid.uuid4())
print(uuid.uuid1())
print(os.urandom(8).hex(), os.getrandom(8).hex())
print(secrets.token_hex(8))
print(next(tempfile._get_candidate_names()))
print(ssl.RAND_bytes(8).hex())
print(open('/etc/machine-id').read().strip())
print(os.uname().nodename)
print(open('/proc/sys/kernel/random/boot_id').read().strip())
print(open('/proc/sys/kernel/random/uuid').read().strip())
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_python_clones_share_no_random_value() {
    let clones = assert_all_differ(&engine(), Language::Python, PYTHON, 100).await;
    assert_eq!(clones.len(), 100);
    for lines in clones {
        let [id, name] = [&lines[8], &lines[9]];
        assert_eq!((id.len(), name), (32, &format!("fumehood-{}", &id[..8])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_and_shell_clones_share_no_random_value() {
    let javascript = "
import { randomBytes } from 'node:crypto';
console.log(Math.random());
console.log(Math.random() + Math.random());
console.log(crypto.randomUUID());
console.log(Buffer.from(crypto.getRandomValues(new Uint8Array(8))).toString('hex'));
console.log(randomBytes(8).toString('hex'));
console.log(Bun.randomUUIDv7());
";
    let count = repetitions("FUMEHOOD_SIBLINGS", 30, 100);
    assert_all_differ(&engine(), Language::Javascript, javascript, count).await;

    // The last one is an address that the kernel draws for a new process.
    let shell = "echo $RANDOM$RANDOM$RANDOM; echo $SRANDOM; mktemp -u
        head -c 8 /dev/urandom | od -An -tx8; cat /etc/machine-id; uname -n
        cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; sed -n '1s/ .*//p' /proc/self/maps";
    assert_all_differ(&engine(), Language::Shell, shell, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_are_right() {
    let engine = engine();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    for (language, code) in [
        (Language::Python, "import time; print(time.time())"),
        (Language::Javascript, "console.log(Date.now() / 1000)"),
        (Language::Shell, "date +%s.%N"),
    ] {
        let before = now();
        let (text, _) = output(&engine, language, code).await;
        let (reported, after) = (text.trim().parse::<f64>().unwrap(), now());

        // JavaScript's clock has milliseconds.
        assert!(
            before - 0.002 <= reported && reported <= after + 0.002,
            "{language}: {reported} is not between {before} and {after}"
        );
    }

    // It advances at the right pace.
    let code = "
import time
wall, steady = time.time(), time.monotonic()
time.sleep(0.5)
print(time.time() - wall, time.monotonic() - steady)";
    let (text, _) = output(&engine, Language::Python, code).await;
    for passed in text
        .split_whitespace()
        .map(|word| word.parse::<f64>().unwrap())
    {
        assert!(
            (0.5..5.0).contains(&passed),
            "a sleep of 0.5 s took {passed} s"
        );
    }
}

/// Siblings of one image start from the same moment of their own time, whenever they start; it advances as the host's does,
/// and all clocks of a guest agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clocks_of_siblings_continue_from_one_moment() {
    let code = "
import glob, os, time
clocks = [time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC_RAW, time.CLOCK_BOOTTIME]
first = [time.clock_gettime(clock) for clock in clocks]
coarse = 5  # CLOCK_REALTIME_COARSE
up = float(open('/proc/uptime').read().split()[0])
time.sleep(0.2)
later = [time.clock_gettime(clock) for clock in clocks]
print(first[0], *[b - a for a, b in zip(first, later)])
print(first[2] - first[0], up - first[2], time.clock_gettime(coarse) - time.time())
rtc = glob.glob('/sys/class/rtc/rtc*/since_epoch')
print([time.time() - float(open(path).read()) for path in rtc])
";
    let engine = engine();
    let mut starts = Vec::new();
    for _ in 0..5 {
        let (text, outcome) = output(&engine, Language::Python, code).await;
        assert_eq!(outcome.source, VmOrigin::HotImage);
        let lines: Vec<Vec<f64>> = text.lines().map(numbers).collect();
        let [passed, differences, hardware] = &lines[..] else {
            panic!("{text}");
        };

        starts.push(passed[0]);
        for seconds in &passed[1..] {
            assert!((0.2..5.0).contains(seconds), "{text}");
        }
        for seconds in differences {
            assert!(seconds.abs() < 0.5, "{text}");
        }
        // The hardware clock has whole seconds.
        for seconds in hardware {
            assert!((-1.0..3.0).contains(seconds), "{text}");
        }
    }

    let spread = starts.iter().copied().fold(f64::MIN, f64::max)
        - starts.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread < 5.0, "{starts:?}");
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<f64> {
    let words = line.split(|c: char| c.is_whitespace() || "[],".contains(c));
    words
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap())
        .collect()
}

/// QEMU emulates these instructions by a generator in its process, whose state siblings share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_have_no_random_instructions() {
    let code = "
import ctypes, mmap, os, signal
flags = next(line for line in open('/proc/cpuinfo') if line.startswith('flags')).split()
print([flag for flag in flags if flag in ('rdrand', 'rdseed')])
# rdrand eax; ret -- rdseed eax; ret
for code in (bytes.fromhex('0fc7f0c3'), bytes.fromhex('0fc7f8c3'), bytes.fromhex('c3')):
    child = os.fork()
    if child == 0:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else 'executed')
";
    let (text, _) = output(&engine(), Language::Python, code).await;
    assert_eq!(text, "[]\nSIGILL\nSIGILL\nexecuted\n");
}

/// A certificate that becomes valid only later than the template was made is good in the clone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_works_with_a_certificate_that_is_younger_than_the_template() {
    let code = r#"
import datetime, ssl, socket, subprocess, threading
start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
stamp = lambda t: t.strftime("%Y%m%d%H%M%SZ")
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
    "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost", "-not_before", stamp(start),
    "-not_after", stamp(start + datetime.timedelta(hours=1))], check=True, capture_output=True)
server = socket.create_server(("127.0.0.1", 0))
def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    with context.wrap_socket(server.accept()[0], server_side=True) as line:
        line.sendall(line.recv(100))
threading.Thread(target=serve, daemon=True).start()
context = ssl.create_default_context(cafile="cert.pem")
with context.wrap_socket(socket.create_connection(server.getsockname()), server_hostname="localhost") as line:
    line.sendall(b"through TLS")
    print(line.recv(100).decode(), line.version())
"#;
    let engine = engine();
    let (text, outcome) = output(&engine, Language::Python, code).await;
    assert!(text.starts_with("through TLS TLSv1.3"), "{text}");
    assert_eq!(outcome.source, saved_origin(&engine));
}
