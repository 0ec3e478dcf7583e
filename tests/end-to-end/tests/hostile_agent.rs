//! A guest with a hostile agent, against the real engine: each request ends in time with the right error, this
//! process's memory stays bounded, and another sandbox is not affected.
//!
//! The tests run in the order of their names: first those that mostly wait, beside each other; then those that check larger
//! parts of this process's memory, one at a time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fumehood_end_to_end::{
    collect, program, run_in, sandbox, sha256_hex, status_kib, test_program, within_deadline,
};
use fumehood_engine::image::{Store, floor_initrd};
use fumehood_engine::{
    ChangeKind, Config, EndedBy, Engine, Error, ErrorKind, Language, RunRequest, Sandbox,
    SandboxEnd, TemplateUse,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// The most that this process may hold for hostile guests, in MiB: a window of output (1), a listing or changes that
/// wait (16 and 8, four times that once parsed), two values (10 each), and what the allocator keeps.
const GROWTH_MIB: u64 = 160;

/// Time for the greeting of a VM; some of them never send one.
const BOOT_DEADLINE: Duration = Duration::from_secs(8);

/// Bytes of the disk that stands in for a root file system.
const ROOT_BYTES: usize = 1024 * 1024;

/// An engine whose only image has the real kernel and, in place of the guest agent, the hostile one.
struct HostileImage {
    engine: Engine,
    _store: tempfile::TempDir,
}

impl HostileImage {
    /// Makes an image whose agent greets as `greeting` names; the empty one is well-behaved.
    fn new(greeting: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let images = store.path().join("images");
        let image = images.join("hostile-1");
        std::fs::create_dir_all(&image).unwrap();

        // QEMU may open files of the image's directory only: the kernel is copied, not linked.
        let real = real_image();
        std::fs::copy(real.join("vmlinux"), image.join("vmlinux")).unwrap();

        // The agent takes the place of init. Nothing mounts the root file system.
        let mut init = std::fs::read(test_program("fumehood-fake-agent")).unwrap();
        init.extend(format!("\ngreeting={greeting}").bytes());
        let manifest = std::fs::read(real.join("manifest.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let parts = [
            (1, "initrd.cpio", floor_initrd(&init)),
            (2, "rootfs.erofs", vec![0; ROOT_BYTES]),
        ];
        for (part, file, bytes) in parts {
            manifest["parts"][part]["bytes"] = json!(bytes.len());
            manifest["parts"][part]["sha256"] = json!(sha256_hex(&bytes));
            std::fs::write(image.join(file), bytes).unwrap();
        }
        std::fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        std::os::unix::fs::symlink("hostile-1", images.join("hostile")).unwrap();

        let engine = Engine::start(Config {
            store: Some(store.path().to_owned()),
            image: "hostile".parse().unwrap(),
            boot_deadline: BOOT_DEADLINE,
            templates: TemplateUse::Never,
            launcher: Some(program().with_file_name("fumehood-launcher")),
            ..Config::default()
        });
        Self {
            engine: engine.unwrap_or_else(|e| panic!("{e}")),
            _store: store,
        }
    }

    async fn sandbox(&self) -> Sandbox {
        within_deadline("a sandbox", async {
            self.engine.sandbox().memory_mib(128).await
        })
        .await
        .unwrap()
    }
}

fn real_image() -> PathBuf {
    let images = Store::default_root().unwrap().join("images");
    std::fs::canonicalize(images.join("default")).unwrap()
}

/// A real sandbox, in which code runs all the time and must keep giving the right results.
struct Neighbour {
    stop: Arc<AtomicBool>,
    runs: tokio::task::JoinHandle<u64>,
}

impl Neighbour {
    async fn start() -> Self {
        let sandbox = sandbox(512).await;
        let context = sandbox.context("neighbour", Language::Python);
        assert_eq!(run_in(&context, "n = 0").await.out(), "");

        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let runs = tokio::spawn(async move {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                count += 1;
                let transcript = run_in(&context, "n += 1; print(n)").await;
                assert_eq!(
                    transcript.out(),
                    format!("{count}\n"),
                    "{}",
                    transcript.err()
                );
                assert_eq!(transcript.end(), (EndedBy::Exited, Some(0)));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(sandbox.ended(), None);
            count
        });
        Self { stop, runs }
    }

    /// Ends the sandbox, and checks that all of its runs were right.
    async fn assert_undisturbed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = within_deadline("the neighbour's end", self.runs)
            .await
            .unwrap();
        assert!(count > 10, "{count} runs");
    }
}

/// Watches the peak of this process's memory.
struct MemoryPeak {
    kib_before: u64,
}

impl MemoryPeak {
    /// Starts at the memory that is resident now.
    fn watch() -> Self {
        // This resets the peak.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self {
            kib_before: status_kib(std::process::id(), "VmRSS").unwrap(),
        }
    }

    fn assert_bounded(&self, what: &str) {
        let peak = status_kib(std::process::id(), "VmHWM").unwrap();
        let grown = peak.saturating_sub(self.kib_before) / 1024;
        assert!(
            grown <= GROWTH_MIB,
            "{what}: this process has grown by {grown} MiB"
        );
    }
}

/// Held by each test that checks the memory of this process, which all tests share: for reading by those that together stay
/// within the bound.
static MEMORY_TEST: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// Nearly the time that a file may take whose guest sends a byte a second.
const FILE_STALL: Duration = Duration::from_secs(56);

/// More time than a directory may take of which only the first window was sent.
const DIRECTORY_STALL: Duration = Duration::from_secs(30 * 60);

/// Waits until a transfer has begun, and moves the clock on. Returns the transfer's error.
async fn error_after<T: std::fmt::Debug>(
    stall: Duration,
    transfer: impl Future<Output = Result<T, Error>>,
    has_begun: impl Fn() -> bool,
) -> (ErrorKind, String) {
    let mut transfer = pin!(transfer);
    let begun = async {
        while !has_begun() {
            tokio::select! {
                result = &mut transfer => panic!("{result:?}"),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    within_deadline("the start of a transfer", begun).await;

    tokio::time::pause();
    tokio::time::advance(stall).await;
    tokio::time::resume();
    kind(within_deadline("the end of a transfer", transfer).await)
}

/// Whether this process has the file open.
fn is_open(path: &Path) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut targets = descriptors.flat_map(|entry| std::fs::read_link(entry.path()));
    targets.any(|target| target == path)
}

/// The clock of a runtime with one thread can be moved.
#[tokio::test]
async fn transfers_that_stall_time_out() {
    let hostile = HostileImage::new("");
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let sandbox = hostile.sandbox().await;
    let target = place.join("file");
    let file = tokio::fs::File::create(&target).await.unwrap();
    let files = sandbox.files();
    let download = files.download("/a byte a second", file);
    let (kind, text) = error_after(FILE_STALL, download, || {
        target.metadata().unwrap().len() > 0
    })
    .await;
    assert_eq!(kind, ErrorKind::Lost, "{text}");
    assert!(text.contains("the guest sent only "), "{text}");

    let sandbox = hostile.sandbox().await;
    let target = place.join("target");
    let files = sandbox.files();
    let download = files.download_dir("/a byte a second", &target);
    let (kind, text) = error_after(DIRECTORY_STALL, download, || target.exists()).await;
    assert_eq!(kind, ErrorKind::Lost, "{text}");
    assert!(text.contains("the copy of the directory"), "{text}");

    // More than the buffers on the way hold: the thread that packs it has to wait.
    let sandbox = hostile.sandbox().await;
    let source = place.join("source");
    std::fs::create_dir(&source).unwrap();
    let large = source.join("large");
    std::fs::write(&large, vec![0; 16 * 1024 * 1024]).unwrap();
    let files = sandbox.files();
    let upload = files.upload_dir(&source, "/nothing");
    let (kind, text) = error_after(DIRECTORY_STALL, upload, || is_open(&large)).await;
    assert_eq!(kind, ErrorKind::Lost, "{text}");
    assert!(text.contains("the copy of the directory"), "{text}");
}

/// Deeds of a hostile agent in an exec, and part of the error message for each.
const VIOLATIONS: [(&str, &str); 23] = [
    (
        "output without credit",
        "more output than its credit allows",
    ),
    ("output of another", "operation 4711, which was not started"),
    ("output of nobody", "a message without an operation"),
    ("a frame too long", "a frame of 65537 bytes"),
    ("a frame of 2^64 bytes", ""),
    ("a frame of less than no bytes", ""),
    ("a line without end", "a line of more than"),
    ("deep JSON", ""),
    ("deep JSON in a message", ""),
    ("huge numbers", ""),
    ("invalid UTF-8", ""),
    ("a later number", "expected 0"),
    ("the same number twice", "expected 1"),
    ("a wrong checksum", "received 5 bytes of stdout"),
    ("an end before the output", "received 0 bytes of stdout"),
    (
        "a list of files",
        "the answer to a program has the wrong type",
    ),
    ("pongs", "the answer to a program has the wrong type"),
    ("credit for nothing", "credit of 0 bytes"),
    ("credit without end", "credit for more than"),
    ("beginnings", "the answer to a program has the wrong type"),
    ("another greeting", "an answer without a request"),
    ("/done", "the answer to a program has the wrong type"),
    (
        "/none without end",
        "the answer to a program has the wrong type",
    ),
];

/// How many of the violations are tried at a time.
const VIOLATIONS_AT_ONCE: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn violations_of_the_protocol_end_the_vm() {
    let _guard = MEMORY_TEST.write().await;
    let (hostile, neighbour) = (HostileImage::new(""), Neighbour::start().await);
    let memory = MemoryPeak::watch();

    // Each has its own VM, and most of its time goes into booting that.
    let attempts = VIOLATIONS.map(|(violation, message)| {
        let (hostile, memory) = (&hostile, &memory);
        async move {
            let start = Instant::now();
            let request = RunRequest::new(Language::Shell, violation)
                .timeout_s(5)
                .memory_mib(128);
            match collect(hostile.engine.run(request).unwrap()).await {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Protocol, "{violation}: {error}");
                    let text = error.to_string();
                    assert!(
                        text.starts_with("the guest violated the protocol: "),
                        "{violation}: {text}"
                    );
                    assert!(text.contains(message), "{violation}: {text}");
                }
                Ok(transcript) => panic!("{violation}: {transcript:?}"),
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "{violation} took {:?}",
                start.elapsed()
            );
            memory.assert_bounded(violation);
        }
    });
    stream::iter(attempts)
        .buffer_unordered(VIOLATIONS_AT_ONCE)
        .collect::<()>()
        .await;

    neighbour.assert_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_or_slow_agent_times_out() {
    let _guard = MEMORY_TEST.read().await;
    let (hostile, neighbour) = (HostileImage::new(""), Neighbour::start().await);
    let memory = MemoryPeak::watch();

    // All at once: most of the time is spent waiting for an end that does not come.
    let mut runs = Vec::new();
    for deed in [
        "nothing",
        "half a line",
        "a frame that never ends",
        "a byte a second",
        "values of a million forms",
    ] {
        let request = RunRequest::new(Language::Shell, deed)
            .timeout_s(1)
            .memory_mib(128)
            .display();
        runs.push((deed, hostile.engine.run(request).unwrap()));
    }
    let request = RunRequest::new(Language::Shell, "an end of the machine").memory_mib(128);
    let machine_end = hostile.engine.run(request).unwrap();

    for (deed, run) in runs {
        let transcript = collect(run).await.unwrap_or_else(|e| panic!("{deed}: {e}"));
        assert_eq!(
            transcript.end(),
            (EndedBy::Timeout, Some(124)),
            "{deed}: {transcript:?}"
        );
        assert!(
            transcript
                .detail()
                .contains("did not end the program in time"),
            "{deed}: {}",
            transcript.detail()
        );
        assert!(
            transcript.outcome.timing.execute < Duration::from_secs(40),
            "{deed}: {transcript:?}"
        );
    }

    let transcript = collect(machine_end).await.unwrap();
    assert_eq!(
        transcript.end(),
        (EndedBy::AgentLost, None),
        "{transcript:?}"
    );

    memory.assert_bounded("silence");
    neighbour.assert_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_that_repeat_end_the_sandbox() {
    let _guard = MEMORY_TEST.read().await;
    let (hostile, neighbour) = (HostileImage::new(""), Neighbour::start().await);
    let (memory, sandbox) = (MemoryPeak::watch(), hostile.sandbox().await);

    let run = sandbox.run(&RunRequest::new(Language::Shell, "well"));
    let transcript = collect(run.unwrap()).await.unwrap();
    assert_eq!(
        (transcript.out(), transcript.end()),
        ("well\n", (EndedBy::Exited, Some(0)))
    );

    // The first completion ends the run, the second one breaks the protocol.
    let run = sandbox.run(&RunRequest::new(Language::Shell, "an end again and again"));
    assert_eq!(
        collect(run.unwrap()).await.unwrap().end(),
        (EndedBy::Exited, Some(0))
    );
    let end = within_deadline("the sandbox's end", sandbox.wait()).await;
    let SandboxEnd::Lost(why) = end else {
        panic!("{end:?}")
    };
    assert!(
        why.contains("violated the protocol") && why.contains("have ended"),
        "{why}"
    );

    memory.assert_bounded("ends");
    neighbour.assert_undisturbed().await;
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

/// Checks that an operation failed since the guest violated the protocol, with a message that contains this.
fn assert_violation<T: std::fmt::Debug>(what: &str, result: Result<T, Error>, message: &str) {
    let (kind_of, text) = kind(result);
    assert_eq!(kind_of, ErrorKind::Protocol, "{what}: {text}");
    assert!(text.contains(message), "{what}: {text}");
}

/// The error message for an answer that does not belong to the request.
const UNEXPECTED_ANSWER: &str = "the guest violated the protocol: unexpected answer";

/// Requests for a file's bytes that get forged answers, each from a separate VM.
async fn forged_reads(hostile: &HostileImage) {
    let files = async || hostile.sandbox().await.files();

    let forged = files().await.read("/another's bytes").await;
    assert_violation("read", forged, "received 6 bytes of a file");
    for path in ["/as output", "/done"] {
        let forged = files().await.read(path).await;
        assert_violation(path, forged, UNEXPECTED_ANSWER);
    }

    let endless = files().await.read_range("/without end", 0, 1000).await;
    assert_violation("read_range", endless, "more bytes of a file than requested");

    // Credit is granted as the bytes are written, so the host must be slower than the guest.
    let (slow_sink, mut reader) = tokio::io::duplex(64 * 1024);
    let drained = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while reader.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let endless = files().await.download("/without end", slow_sink).await;
    drained.await.unwrap();
    assert_violation("download", endless, "more output than its credit allows");
}

/// Requests for directories and metadata that get forged answers, each from a separate VM.
async fn forged_listings(hostile: &HostileImage) {
    let files = async || hostile.sandbox().await.files();

    for (path, message) in [
        ("/a million", "a directory listing with too many entries"),
        ("/none without end", UNEXPECTED_ANSWER),
        ("/done", UNEXPECTED_ANSWER),
    ] {
        let forged = files().await.list(path).await;
        assert_violation(path, forged, message);
    }

    let (kind_of, text) = kind(files().await.stat("/done").await);
    assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
}

/// Half a gigabyte of changes that the host does not take: most are left out, and that is reported.
async fn flood_of_changes(hostile: &HostileImage) {
    let sandbox = hostile.sandbox().await;
    let mut watcher = sandbox.files().watch("/changes", false).await.unwrap();

    let overflow = async {
        let mut count = 0_u64;
        loop {
            match watcher.next().await.unwrap() {
                Some((ChangeKind::Overflow, _)) => return count,
                // In this time the guest sends as many as the host holds, and more.
                Some(_) if count == 0 => tokio::time::sleep(Duration::from_secs(5)).await,
                Some(_) => {}
                None => panic!("it ended"),
            }
            count += 1;
        }
    };
    let count = within_deadline("word of an overflow", overflow).await;
    assert!(count < 20_000, "{count} changes were held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_answers_to_file_operations_are_errors() {
    let _guard = MEMORY_TEST.write().await;
    let (hostile, neighbour) = (HostileImage::new(""), Neighbour::start().await);
    let memory = MemoryPeak::watch();

    // A listing and changes both take much of the memory that is allowed: one after the other. Reads take little of it.
    let one_by_one = async {
        forged_listings(&hostile).await;
        flood_of_changes(&hostile).await;
    };
    tokio::join!(forged_reads(&hostile), one_by_one);

    memory.assert_bounded("files");
    neighbour.assert_undisturbed().await;
}

/// How a hostile agent greets, and part of the error's message.
const GREETINGS: [(&str, &str); 10] = [
    ("never", "did not answer within 8 s"),
    ("before it is asked", "without a greeting"),
    ("without a nonce", "did not answer within 8 s"),
    ("in another version", "is not compatible with this fumehood"),
    ("without features", "is not compatible with this fumehood"),
    ("too long", "did not answer within 8 s"),
    ("without end", "without a greeting"),
    ("twice", "an answer without a request"),
    ("without a refresh", "did not answer within 8 s"),
    ("and goes", ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_greetings_fail_the_boot() {
    let _guard = MEMORY_TEST.read().await;
    let neighbour = Neighbour::start().await;
    let memory = MemoryPeak::watch();

    // All at once: most of the time is spent waiting for a greeting that does not come.
    let attempts = GREETINGS.map(|(greeting, message)| {
        let hostile = HostileImage::new(greeting);
        tokio::spawn(async move {
            let start = Instant::now();
            let run = hostile
                .engine
                .run(RunRequest::new(Language::Shell, "well").memory_mib(128));
            let error = collect(run.unwrap()).await.unwrap_err();
            (greeting, message, error, start.elapsed())
        })
    });

    for attempt in attempts {
        let (greeting, message, error, took) = attempt.await.unwrap();
        // An agent with another protocol may only be old: its image has to be built again.
        let kind = if message.contains("fumehood") {
            ErrorKind::Damaged
        } else {
            ErrorKind::Boot
        };
        assert_eq!(error.kind(), kind, "{greeting}: {error}");
        assert!(error.to_string().contains(message), "{greeting}: {error}");
        assert!(took < BOOT_DEADLINE * 3, "{greeting} took {took:?}");
    }

    memory.assert_bounded("greetings");
    neighbour.assert_undisturbed().await;
}
