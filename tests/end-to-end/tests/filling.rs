//! Programs that fill their guest's memory or disk. The agent keeps working, and later programs succeed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::{finish_run, run_in, sandbox, shell_ok};
use fumehood_engine::{EndedBy, Language, RunRequest, SpawnRequest};

const EATS: &str = "x = []\nwhile True: x.append(bytearray(1 << 20))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_ends_only_the_program() {
    let sandbox = sandbox(256).await;
    let python = sandbox.context("p", Language::Python);
    let javascript = sandbox.context("j", Language::Javascript);

    // The interpreter, in both that have a heap.
    for (context, code) in [
        (&python, EATS),
        (
            &javascript,
            "const x = []; while (true) x.push(new Uint8Array(1 << 20).fill(1))",
        ),
    ] {
        let transcript = run_in(context, code).await;
        assert_eq!(
            transcript.end(),
            (EndedBy::OutOfMemory, Some(137)),
            "{transcript:?}"
        );
        assert!(transcript.outcome.evidence.oom_kills.unwrap() >= 1);
        assert!(
            transcript.detail().contains("state is lost"),
            "{transcript:?}"
        );
        assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n");
    }

    // A child process: the program survives and reports it, and so does the evidence.
    let parent = format!(
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {EATS:?}]).returncode)"
    );

    let program = SpawnRequest::new(["python3", "-c", parent.as_str()]);
    for run in [
        python
            .start(&python.request(&parent).timeout_s(120))
            .unwrap(),
        sandbox.spawn(&program).unwrap(),
    ] {
        let transcript = finish_run(run).await;
        assert_eq!(
            (transcript.out(), transcript.end()),
            ("-9\n", (EndedBy::Exited, Some(0))),
            "{transcript:?}"
        );
        assert!(
            transcript.outcome.evidence.oom_kills.unwrap() >= 1,
            "{transcript:?}"
        );
    }

    // Only that exec has the evidence.
    assert_eq!(run_in(&python, "1").await.outcome.evidence.oom_kills, None);

    // Everything at once.
    let mut runs = vec![
        sandbox
            .spawn(&SpawnRequest::new(["python3", "-c", EATS]))
            .unwrap(),
    ];

    for n in 0..3 {
        let request = RunRequest::new(Language::Python, EATS).timeout_s(120);
        runs.push(sandbox.run(&request.context(format!("all-{n}"))).unwrap());
    }

    for run in runs {
        let transcript = finish_run(run).await;
        let is_honest = match transcript.outcome.ended_by {
            EndedBy::OutOfMemory => transcript.outcome.evidence.oom_kills.is_some(),
            EndedBy::Exited => transcript.err().contains("MemoryError"),
            _ => false,
        };
        assert!(is_honest, "{transcript:?}");
    }

    for n in 0..3 {
        let context = sandbox.context(format!("all-{n}"), Language::Python);
        assert_eq!(run_in(&context, "print(1)").await.out(), "1\n");
    }

    assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_leaves_the_agent_working() {
    let sandbox = sandbox(256).await;
    let fills = |file: &str| {
        format!(
            "try:\n    with open('{file}', 'wb', 0) as f:\n        while True: f.write(bytes(1 << 20))\nexcept OSError as e: print(e.strerror)"
        )
    };

    let python = sandbox.context("p", Language::Python);
    for place in ["/tmp/x", "/dev/shm/x", "x"] {
        let transcript = run_in(&python, &fills(place)).await;
        assert_eq!(
            (transcript.out(), transcript.end(), transcript.detail()),
            ("No space left on device\n", (EndedBy::Exited, Some(0)), ""),
            "{place} {}",
            transcript.err()
        );

        // While it is full, programs run, and writers get an error.
        assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n", "{place}");
        if place != "/dev/shm/x" {
            let error = sandbox
                .files()
                .write("more", vec![0; 2 << 20])
                .await
                .unwrap_err();
            assert_eq!(
                error.io_kind(),
                Some(std::io::ErrorKind::StorageFull),
                "{error}"
            );
        }

        sandbox.files().remove(place).await.unwrap();
        sandbox
            .files()
            .write("more", vec![0; 2 << 20])
            .await
            .unwrap();
    }

    // Both at once exceed the memory: something ends, and the cause is reported.
    let transcript = run_in(
        &python,
        &format!("{}\n{}", fills("/tmp/x"), fills("/dev/shm/x")),
    )
    .await;
    assert!(
        matches!(
            transcript.outcome.ended_by,
            EndedBy::Exited | EndedBy::OutOfMemory
        ),
        "{transcript:?}"
    );

    for place in ["/tmp/x", "/dev/shm/x"] {
        sandbox.files().remove_all(place).await.unwrap();
    }

    assert_eq!(run_in(&python, "print(1)").await.out(), "1\n");
    assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n");
}
