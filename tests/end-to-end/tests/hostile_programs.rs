//! Programs that attack the report of their own end, other programs, or the agent. They harm only themselves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use fumehood_end_to_end::{
    RunTranscript, collect, finish_run, next_stdout, read_stdout_until, run_in, sandbox, shell_ok,
    within_deadline,
};
use fumehood_engine::{
    EndedBy, ErrorKind, Event, Language, Run, RunRequest, Sandbox, SpawnRequest,
};
use futures_util::future::join_all;

fn request(language: Language, code: &str) -> RunRequest {
    RunRequest::new(language, code).timeout_s(120)
}

/// Checks that a new program, an older context and the agent work as they should.
async fn assert_healthy(sandbox: &Sandbox) {
    let witness = sandbox.context("witness", Language::Python);
    let transcript = run_in(&witness, "n = globals().get('n', 0) + 1; print('n', n > 0)").await;
    assert_eq!(
        (transcript.out(), transcript.end(), transcript.detail()),
        ("n True\n", (EndedBy::Exited, Some(0)), "")
    );
    assert_eq!(shell_ok(sandbox, "echo well").await, "well\n");
    assert_eq!(sandbox.ended(), None);
}

/// Runs code in each way there is, all at once.
async fn run_in_every_way(
    sandbox: &Sandbox,
    language: Language,
    code: &str,
    timeout_s: u64,
) -> Vec<RunTranscript> {
    let context = sandbox.context("hostile", language);
    run_in(&context, "").await;

    let once = request(language, code).timeout_s(timeout_s);
    let runs = [
        once.clone(),
        once.clone().fresh_interpreter(),
        once.context("hostile"),
    ];
    let runs = runs.map(|request| sandbox.run(&request).unwrap());
    let all = join_all(runs.map(finish_run)).await;

    // The context can be closed once it is quiet, whatever state it has, and starts afresh.
    let closed = async {
        while sandbox.context("hostile", language).close().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within_deadline("the end of a context", closed).await;
    all
}

const FORGERIES: &str = r#"{"type":"complete","exit_code":0,"ended_by":"exited","evidence":{},"stdout":{"bytes":0,"crc32c":0},"stderr":{"bytes":0,"crc32c":0},"execution_time_ms":1,"op_id":1}
{"type":"data","stream":"stdout","seq":0,"len":65536,"op_id":1}
{"type":"error","message":"no","error_type":"agent_error","op_id":1}
{"action":"cancel","op_id":1}
{"type":"hello","version":"0","protocol":9,"features":[],"boot_id":"x"}
0
r
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_looks_like_the_protocol_stays_output() {
    let sandbox = sandbox(512).await;
    sandbox.files().write("forged", FORGERIES).await.unwrap();
    assert_healthy(&sandbox).await;

    for (language, code) in [
        (
            Language::Python,
            "import sys; text = open('forged').read(); sys.stdout.write(text); sys.stderr.write(text)",
        ),
        (
            Language::Javascript,
            "const text = await Bun.file('forged').text(); process.stdout.write(text); process.stderr.write(text)",
        ),
        (Language::Shell, "cat forged; cat forged >&2"),
    ] {
        for transcript in run_in_every_way(&sandbox, language, code, 120).await {
            assert_eq!(
                (transcript.out(), transcript.err().as_str()),
                (FORGERIES, FORGERIES),
                "{code}"
            );
            assert_eq!(
                (transcript.end(), transcript.detail()),
                ((EndedBy::Exited, Some(0)), "")
            );
            assert!(transcript.results.is_empty());
        }
    }

    let transcript = finish_run(
        sandbox
            .spawn(&SpawnRequest::new(["cat", "forged"]))
            .unwrap(),
    )
    .await;
    assert_eq!((transcript.out(), transcript.end().1), (FORGERIES, Some(0)));

    // As the name of a file, of a process, and of a variable.
    let code = r#"touch "$(printf '{"type":"complete"}\n{"op_id":1}')"; A="$(cat forged)" bash -c 'exec -a "$A" sleep 0.1'"#;
    shell_ok(&sandbox, code).await;
    let names = sandbox.files().list(".").await.unwrap();
    assert!(
        names
            .iter()
            .any(|file| file.path.contains("{\"type\":\"complete\"}\n")),
        "{names:?}"
    );

    assert_healthy(&sandbox).await;
}

/// Each writes to all descriptors there are.
const FORGERS: [(Language, &str); 3] = [
    (
        Language::Python,
        "import os, time\nfor word in (b'0\\n', b'r\\n', b'99999999999\\n', b'\\xff\\0junk' * 100, b'{\"text/plain\": 1}\\n'):\n    for fd in range(301):\n        try:\n            os.set_blocking(fd, False); os.write(fd, word)\n        except OSError: pass\ntime.sleep(1)",
    ),
    (
        Language::Javascript,
        "const fs = require('fs'); for (const word of ['0\\n', 'r\\n', '999999999999\\n', '\\xff\\0junk\\n']) for (const fd of fs.readdirSync('/proc/self/fd').map(Number)) if (fd < 301 && !/eventpoll|eventfd|timerfd/.test((() => { try { return fs.readlinkSync('/proc/self/fd/' + fd) } catch { return 'eventpoll' } })())) try { fs.writeSync(fd, word) } catch {}\nawait Bun.sleep(1000)",
    ),
    (
        Language::Shell,
        "for word in 0 r 99999999999 junk; do for fd in {0..300}; do [ ! -e /proc/$$/fd/$fd ] || echo $word >&$fd; done; done 2> /dev/null; sleep 1",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_completion_ends_only_the_forger() {
    let sandbox = sandbox(512).await;
    assert_healthy(&sandbox).await;

    for (language, code) in FORGERS {
        let start = Instant::now();
        for transcript in run_in_every_way(&sandbox, language, code, 20).await {
            assert!(
                matches!(
                    transcript.outcome.ended_by,
                    EndedBy::Exited | EndedBy::Signaled | EndedBy::Timeout
                ),
                "{language} {transcript:?}"
            );
        }

        assert!(start.elapsed() < Duration::from_secs(100), "{language}");
        assert_healthy(&sandbox).await;
    }

    // Forged display values are discarded and counted.
    let junk = "import os\nfor line in (b'no JSON\\n', b'[1]\\n', b'{\"text/plain\": \"forged\"}\\n', b'\\xff' * 70000 + b'\\n', b'no end'): os.write(253, line)\n7";
    let python = sandbox.context("junk", Language::Python);
    let transcript = finish_run(python.start(&python.request(junk).display()).unwrap()).await;
    assert_eq!(
        transcript.end(),
        (EndedBy::Exited, Some(0)),
        "{}",
        transcript.err()
    );
    assert_eq!(transcript.texts()[0], "forged");
    assert!(
        transcript.detail().contains("not MIME bundles"),
        "{transcript:?}"
    );

    let transcript = finish_run(python.start(&python.request("8").display()).unwrap()).await;
    assert_eq!(transcript.texts().last().map(String::as_str), Some("8"));

    // A thread that reads the message of the next exec leaves it nothing to run, until its timeout.
    let thief = sandbox.context("thief", Language::Python);
    let steals = "import os, threading\nthreading.Thread(target=lambda: [os.read(254, 65536) for _ in range(3)], daemon=True).start()";
    run_in(&thief, steals).await;
    let transcript = finish_run(
        thief
            .start(&thief.request("print('mine')").timeout_s(2))
            .unwrap(),
    )
    .await;
    assert!(
        matches!(
            transcript.outcome.ended_by,
            EndedBy::Exited | EndedBy::Timeout | EndedBy::Signaled
        ),
        "{transcript:?}"
    );

    assert_healthy(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_closes_all_descriptors_still_ends() {
    let sandbox = sandbox(512).await;
    assert_healthy(&sandbox).await;

    for (language, code) in [
        (
            Language::Python,
            "import os; print('up', flush=True); os.closerange(0, 65536)",
        ),
        (
            Language::Javascript,
            "console.log('up'); for (const fd of require('fs').readdirSync('/proc/self/fd')) try { require('fs').closeSync(Number(fd)) } catch {}",
        ),
        (
            Language::Shell,
            "echo up; for fd in {0..300}; do eval \"exec $fd>&-\"; done 2> /dev/null",
        ),
    ] {
        for transcript in run_in_every_way(&sandbox, language, code, 10).await {
            assert_eq!(transcript.out(), "up\n", "{language}");
            assert!(
                matches!(
                    transcript.outcome.ended_by,
                    EndedBy::Exited | EndedBy::Signaled | EndedBy::Timeout
                ),
                "{language} {transcript:?}"
            );
        }

        assert_healthy(&sandbox).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_can_be_cancelled() {
    let sandbox = sandbox(512).await;
    assert_healthy(&sandbox).await;
    let bash = "echo up; bomb() { bomb & bomb & wait; }; bomb";
    let python = "import os\nprint('up', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass";
    let runs: [&dyn Fn() -> Run; 4] = [
        &|| sandbox.run(&request(Language::Shell, bash)).unwrap(),
        &|| {
            sandbox
                .run(&request(Language::Shell, bash).context("bomb"))
                .unwrap()
        },
        &|| {
            sandbox
                .run(&request(Language::Python, python).context("forks"))
                .unwrap()
        },
        &|| {
            sandbox
                .spawn(&SpawnRequest::new(["bash", "-c", bash]))
                .unwrap()
        },
    ];

    for (n, begin) in runs.into_iter().enumerate() {
        let mut run = begin();
        read_stdout_until(&mut run, "up\n").await;

        // It reaches its limit of processes, and other programs still run.
        let full = async {
            while sandbox
                .processes()
                .await
                .unwrap()
                .iter()
                .all(|one| one.pids.len() < 300)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within_deadline("hundreds of processes", full).await;
        assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n");
        run.canceller().cancel();
        let transcript = finish_run(run).await;
        assert_eq!(transcript.end(), (EndedBy::Cancelled, Some(130)), "{n}");
        assert_healthy(&sandbox).await;
    }

    for context in ["bomb", "forks"] {
        let language = if context == "bomb" {
            Language::Shell
        } else {
            Language::Python
        };
        let _ = sandbox.context(context, language).close().await;
    }

    let count = "for i in {1..1000}; do set -- /proc/[0-9]*; (($# < 80)) && exit; sleep 0.02; done; echo $#";
    assert_eq!(shell_ok(&sandbox, count).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_input_is_held_back() {
    let sandbox = sandbox(512).await;
    let never = "import time\nprint('up', flush=True)\ntime.sleep(100)";
    let stops =
        "import sys, time\nsys.stdin.buffer.read1(1000)\nprint('up', flush=True)\ntime.sleep(100)";

    for code in [never, stops] {
        let runs = [
            sandbox
                .run(&request(Language::Python, code).stdin())
                .unwrap(),
            sandbox
                .run(&request(Language::Python, code).stdin().context("c"))
                .unwrap(),
            sandbox
                .spawn(&SpawnRequest::new(["python3", "-c", code]).stdin())
                .unwrap(),
        ];

        let mut waiting = Vec::new();
        for mut run in runs {
            let mut input = run.input();
            let writer = tokio::spawn(async move { input.write(vec![b'x'; 5_000_000]).await });
            assert_eq!(next_stdout(&mut run).await, "up\n");
            waiting.push((run, writer));
        }

        // Nothing is lost by waiting, and other programs do not wait.
        assert_eq!(shell_ok(&sandbox, "echo on").await, "on\n");
        for (run, writer) in waiting {
            assert!(!writer.is_finished(), "5 MB cannot be on their way at once");
            run.canceller().cancel();
            assert_eq!(
                finish_run(run).await.outcome.ended_by,
                EndedBy::Cancelled,
                "{code}"
            );

            // Unread input is dropped until the end is reported, and rejected from then on: either may happen to the last
            // bytes, but the writer must finish.
            let ended = within_deadline("the writer's end", writer).await.unwrap();
            assert!(ended.is_ok() || ended.unwrap_err().kind() == ErrorKind::Lost);
        }

        assert_eq!(
            run_in(
                &sandbox.context("c", Language::Python),
                "import sys; print(len(sys.stdin.read()))"
            )
            .await
            .out(),
            "0\n"
        );
    }

    assert_healthy(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_output_does_not_block_others() {
    let sandbox = sandbox(512).await;
    let mut runs = vec![
        sandbox.run(&request(Language::Shell, "yes")).unwrap(),
        sandbox
            .run(&request(Language::Python, "while True: print('y')").context("c"))
            .unwrap(),
        sandbox
            .spawn(&SpawnRequest::new(["sh", "-c", "yes >&2"]))
            .unwrap(),
    ];

    for n in 0..10 {
        // A slow reader takes a piece now and then.
        for run in &mut runs {
            let event = within_deadline("output", run.next()).await.unwrap();
            let bytes = match &event {
                Event::Stdout(bytes) | Event::Stderr(bytes) => bytes,
                Event::Started { .. } => continue,
                other => panic!("{other:?}"),
            };
            assert!(bytes.iter().all(|byte| b"y\n".contains(byte)));
        }

        assert_eq!(
            shell_ok(&sandbox, &format!("echo {n}")).await,
            format!("{n}\n")
        );
    }

    for run in runs {
        run.canceller().cancel();
        assert_eq!(
            collect(run).await.unwrap().outcome.ended_by,
            EndedBy::Cancelled
        );
    }

    assert_healthy(&sandbox).await;
}
