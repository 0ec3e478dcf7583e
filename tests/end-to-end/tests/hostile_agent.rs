//! A guest whose agent is the host's enemy, against the real engine: what is asked of it ends in its time with an
//! error of its kind, this process's memory stays bounded, and another sandbox does not notice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fumehood_end_to_end::{
    collect, program, run_in, sandbox, status_kib, test_program, within_deadline,
};
use fumehood_engine::image::{Store, floor_initrd};
use fumehood_engine::{
    ChangeKind, Config, EndedBy, Engine, Error, ErrorKind, Language, RunRequest, Sandbox,
    SandboxEnd, TemplateUse,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The most that this process may come to hold for hostile guests, in MiB: a window of output (1), a listing or
/// changes that wait (16 and 8, four times that once parsed), two values (10 each), and what the allocator keeps.
const GROWTH_MIB: u64 = 160;

/// How long a VM may take to be greeted, where it is one that never is.
const BOOT_DEADLINE: Duration = Duration::from_secs(8);

/// Bytes of the disk that stands in for a root file system.
const ROOT_BYTES: usize = 1024 * 1024;

/// A store with one image: the real kernel, and the fake agent, which greets in this manner.
struct Hostile {
    engine: Engine,
    _store: tempfile::TempDir,
}

impl Hostile {
    fn new(manner: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        let (images, made) = (
            store.path().join("images"),
            store.path().join("images/hostile-1"),
        );
        std::fs::create_dir_all(&made).unwrap();
        let real = real_image();
        // QEMU may open what is in the image's directory alone. Nobody mounts this root.
        std::fs::copy(real.join("vmlinux"), made.join("vmlinux")).unwrap();
        let mut init = std::fs::read(test_program("fumehood-fake-agent")).unwrap();
        init.extend(format!("\ngreeting={manner}").bytes());
        let manifest = std::fs::read(real.join("manifest.json")).unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let parts = [
            (1, "initrd.cpio", floor_initrd(&init)),
            (2, "rootfs.erofs", vec![0; ROOT_BYTES]),
        ];

        for (part, file, bytes) in parts {
            let digest = Sha256::digest(&bytes);
            let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            manifest["parts"][part]["bytes"] = json!(bytes.len());
            manifest["parts"][part]["sha256"] = json!(digits);
            std::fs::write(made.join(file), bytes).unwrap();
        }

        std::fs::write(made.join("manifest.json"), manifest.to_string()).unwrap();
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

/// A real sandbox, in which code runs all the time and must stay right.
struct Neighbour {
    over: Arc<AtomicBool>,
    runs: tokio::task::JoinHandle<u64>,
}

impl Neighbour {
    async fn move_in() -> Self {
        let (sandbox, over) = (sandbox(512).await, Arc::new(AtomicBool::new(false)));
        let context = sandbox.context("neighbour", Language::Python);
        assert_eq!(run_in(&context, "n = 0").await.out(), "");
        let stop = over.clone();
        let runs = tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
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

        Self { over, runs }
    }

    /// Nothing of what happened was noticed.
    async fn move_out(self) {
        self.over.store(true, Ordering::Relaxed);
        let count = within_deadline("the neighbour's end", self.runs)
            .await
            .unwrap();
        assert!(count > 10, "{count} runs");
    }
}

/// The most memory that this process has held since [`Memory::now`], beyond what it held then.
struct Memory(u64);

impl Memory {
    fn now() -> Self {
        // Forgets the peak so far.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self(status_kib(std::process::id(), "VmRSS").unwrap())
    }

    fn check(&self, what: &str) {
        let max = status_kib(std::process::id(), "VmHWM").unwrap();
        let grown = max.saturating_sub(self.0) / 1024;
        assert!(
            grown <= GROWTH_MIB,
            "{what}: this process has grown by {grown} MiB"
        );
    }
}

/// One test at a time: each looks at the memory of the process that all of them share.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a hostile agent does with an exec, and what the violation is called.
const VIOLATIONS: [(&str, &str); 23] = [
    ("output without credit", "more output than it was allowed"),
    ("output of another", "operation 4711, which was not begun"),
    ("output of nobody", "belongs to no operation"),
    ("a frame too long", "a frame of 65537 bytes"),
    ("a frame of 2^64 bytes", ""),
    ("a frame of less than no bytes", ""),
    ("a line without end", "a line of more than"),
    ("deep JSON", ""),
    ("deep JSON in a message", ""),
    ("huge numbers", ""),
    ("invalid UTF-8", ""),
    ("a later number", "where 0 was due"),
    ("the same number twice", "where 1 was due"),
    ("a wrong checksum", "stdout arrived as 5 bytes"),
    ("an end before the output", "stdout arrived as 0 bytes"),
    ("a list of files", "answered as something else"),
    ("pongs", "answered as something else"),
    ("credit for nothing", "credit for nothing"),
    ("credit without end", "credit for more than"),
    ("beginnings", "answered as something else"),
    ("another greeting", "a question that was not asked"),
    ("/done", "answered as something else"),
    ("/none without end", "answered as something else"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_violation_ends_the_vm() {
    let _alone = ALONE.lock().await;
    let (hostile, neighbour) = (Hostile::new(""), Neighbour::move_in().await);
    let memory = Memory::now();

    for (deed, message) in VIOLATIONS {
        let start = Instant::now();
        let request = RunRequest::new(Language::Shell, deed)
            .timeout_s(5)
            .memory_mib(128);

        match collect(hostile.engine.run(request).unwrap()).await {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Protocol, "{deed}: {error}");
                let text = error.to_string();
                assert!(
                    text.starts_with("the guest broke the protocol: "),
                    "{deed}: {text}"
                );
                assert!(text.contains(message), "{deed}: {text}");
            }
            Ok(transcript) => panic!("{deed}: {transcript:?}"),
        }

        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{deed} took {:?}",
            start.elapsed()
        );

        memory.check(deed);
    }

    neighbour.move_out().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_or_slow_agent_times_out() {
    let _alone = ALONE.lock().await;
    let (hostile, neighbour) = (Hostile::new(""), Neighbour::move_in().await);
    let memory = Memory::now();
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

    for (deed, run) in runs {
        let transcript = collect(run).await.unwrap_or_else(|e| panic!("{deed}: {e}"));
        assert_eq!(
            transcript.end(),
            (EndedBy::Timeout, Some(124)),
            "{deed}: {transcript:?}"
        );
        assert!(
            transcript.detail().contains("did not end it in time"),
            "{deed}: {}",
            transcript.detail()
        );
        assert!(
            transcript.outcome.timing.execute < Duration::from_secs(40),
            "{deed}: {transcript:?}"
        );
    }

    let request = RunRequest::new(Language::Shell, "an end of the machine").memory_mib(128);
    let transcript = collect(hostile.engine.run(request).unwrap()).await.unwrap();
    assert_eq!(
        transcript.end(),
        (EndedBy::AgentLost, None),
        "{transcript:?}"
    );
    memory.check("silence");
    neighbour.move_out().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_completions_end_the_sandbox() {
    let _alone = ALONE.lock().await;
    let (hostile, neighbour) = (Hostile::new(""), Neighbour::move_in().await);
    let (memory, sandbox) = (Memory::now(), hostile.sandbox().await);
    let transcript = collect(
        sandbox
            .run(&RunRequest::new(Language::Shell, "well"))
            .unwrap(),
    )
    .await
    .unwrap();
    assert_eq!(
        (transcript.out(), transcript.end()),
        ("well\n", (EndedBy::Exited, Some(0)))
    );

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
        why.contains("broke the protocol") && why.contains("have ended"),
        "{why}"
    );
    memory.check("ends");
    neighbour.move_out().await;
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_operations_of_a_hostile_agent_fail() {
    let _alone = ALONE.lock().await;
    let (hostile, neighbour) = (Hostile::new(""), Neighbour::move_in().await);
    let memory = Memory::now();
    let files = |sandbox: &Sandbox| sandbox.files();
    let unexpected_answer = "the guest broke the protocol: an answer to something else";

    let (kind_of, text) = kind(
        files(&hostile.sandbox().await)
            .read("/another's bytes")
            .await,
    );
    assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
    assert!(text.contains("6 bytes of a file arrived"), "{text}");

    for (path, message) in [
        ("/as output", unexpected_answer),
        ("/done", unexpected_answer),
    ] {
        let (kind_of, text) = kind(files(&hostile.sandbox().await).read(path).await);
        assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
        assert!(text.contains(message), "{path}: {text}");
    }

    let sandbox = hostile.sandbox().await;
    let (kind_of, text) = kind(files(&sandbox).read_range("/without end", 0, 1000).await);
    assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
    assert!(
        text.contains("more bytes of a file than were asked for"),
        "{text}"
    );

    let sandbox = hostile.sandbox().await;
    let (kind_of, text) = kind(
        files(&sandbox)
            .download("/without end", tokio::io::sink())
            .await,
    );
    assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
    assert!(text.contains("more output than it was allowed"), "{text}");

    for (path, message) in [
        (
            "/a million",
            "more entries of a directory than there may be",
        ),
        ("/none without end", unexpected_answer),
        ("/done", unexpected_answer),
    ] {
        let (kind_of, text) = kind(files(&hostile.sandbox().await).list(path).await);
        assert_eq!(kind_of, ErrorKind::Protocol, "{text}");
        assert!(text.contains(message), "{path}: {text}");
    }

    let (kind_of, text) = kind(files(&hostile.sandbox().await).stat("/done").await);
    assert_eq!(kind_of, ErrorKind::Protocol, "{text}");

    // Half a gigabyte of changes that nobody takes: most are left out, and that is told.
    let sandbox = hostile.sandbox().await;
    let mut watcher = files(&sandbox).watch("/changes", false).await.unwrap();
    let overflow = async {
        // Until then the guest has sent what is held of them, and more.
        let mut count = 0_u64;
        loop {
            match watcher.next().await.unwrap() {
                Some((ChangeKind::Overflow, _)) => return count,
                Some(_) if count == 0 => tokio::time::sleep(Duration::from_secs(5)).await,
                Some(_) => {}
                None => panic!("it ended"),
            }

            count += 1;
        }
    };

    let count = within_deadline("word of an overflow", overflow).await;
    assert!(count < 20_000, "{count} changes were held");
    memory.check("files");
    neighbour.move_out().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_download_times_out() {
    let hostile = Hostile::new("");
    let sandbox = hostile.sandbox().await;
    let start = Instant::now();
    let (kind_of, text) = kind(sandbox.files().read("/a byte a second").await);
    assert_eq!(kind_of, ErrorKind::Lost, "{text}");
    assert!(text.contains("not waited for any longer"), "{text}");
    assert!(
        start.elapsed() < Duration::from_secs(80),
        "{:?}",
        start.elapsed()
    );
}

/// How a hostile agent greets, what is said of it, and whether it is waited for.
const GREETINGS: [(&str, &str); 10] = [
    ("never", "did not answer within 8 s"),
    ("before it is asked", "no greeting among them"),
    ("without a nonce", "did not answer within 8 s"),
    ("in another version", "does not speak as this fumehood does"),
    ("without features", "does not speak as this fumehood does"),
    ("too long", "did not answer within 8 s"),
    ("without end", "no greeting among them"),
    ("twice", "a question that was not asked"),
    ("without a refresh", "did not answer within 8 s"),
    ("and goes", ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_greetings_fail_the_boot() {
    let _alone = ALONE.lock().await;
    let neighbour = Neighbour::move_in().await;
    let memory = Memory::now();

    // All at once: most of the time is spent waiting for a greeting that does not come.
    let attempts = GREETINGS.map(|(manner, message)| {
        let hostile = Hostile::new(manner);
        tokio::spawn(async move {
            let start = Instant::now();
            let run = hostile
                .engine
                .run(RunRequest::new(Language::Shell, "well").memory_mib(128));
            let error = collect(run.unwrap()).await.unwrap_err();
            (manner, message, error, start.elapsed())
        })
    });

    for attempt in attempts {
        let (manner, message, error, took) = attempt.await.unwrap();
        // One that speaks another protocol may only be old: its image is to be built anew.
        let kind = if message.contains("fumehood") {
            ErrorKind::Damaged
        } else {
            ErrorKind::Boot
        };
        assert_eq!(error.kind(), kind, "{manner}: {error}");
        assert!(error.to_string().contains(message), "{manner}: {error}");
        assert!(took < BOOT_DEADLINE * 3, "{manner} took {took:?}");
    }

    memory.check("greetings");
    neighbour.move_out().await;
}
