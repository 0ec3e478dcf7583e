//! Contexts keep their state from run to run, whatever happens in between.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use fumehood_end_to_end::{
    collect, finish_ok, finish_run, next_stdout, read_stdout_until, run_in, sandbox, shell,
    within_deadline,
};
use fumehood_engine::Language::{self, Javascript, Python, Shell};
use fumehood_engine::{Context, EndedBy, ErrorKind, Retry, Sandbox};

/// One context of each language.
fn contexts(sandbox: &Sandbox) -> [Context; 3] {
    [Python, Javascript, Shell].map(|language| sandbox.context(language.as_str(), language))
}

/// Runs code in a context and returns its output. It must exit with 0, write no errors, and keep its state.
async fn run_ok(context: &Context, code: &str) -> String {
    let transcript = run_in(context, code).await;
    assert_eq!(
        (
            transcript.end(),
            transcript.err().as_str(),
            transcript.detail()
        ),
        ((EndedBy::Exited, Some(0)), "", ""),
        "{code}"
    );

    transcript.out().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_of_three_languages_keep_their_state() {
    let sandbox = sandbox(512).await;
    let [python, javascript, bash] = contexts(&sandbox);
    let count = async |context: &Context, begin: &str, step: &str| {
        run_ok(context, begin).await;
        for n in 1..=15 {
            assert_eq!(run_ok(context, step).await, format!("{n}\n"), "{step}");
        }
    };

    tokio::join!(
        count(&python, "x = 0", "x += 1; print(x)"),
        count(&javascript, "let x = 0", "x += 1; console.log(x)"),
        count(&bash, "x=0", "((x += 1)); echo $x"),
    );

    // They are three of the same names, and share nothing but files.
    let other = sandbox.context("other", Python);
    assert_eq!(run_ok(&other, "print('x' in globals())").await, "False\n");
    run_ok(&bash, "echo $x > file").await;
    assert_eq!(
        run_ok(&python, "print(open('file').read(), end='')").await,
        "15\n"
    );
    assert_eq!(
        run_ok(
            &javascript,
            "console.log((await Bun.file('file').text()).trim())"
        )
        .await,
        "15\n"
    );

    // A name belongs to one language.
    let wrong = sandbox.context("python", Javascript).run("1").unwrap();
    let error = collect(wrong).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Invalid, Retry::Never),
        "{error}"
    );
    assert_eq!(run_ok(&python, "print(x)").await, "15\n");
}

/// Language, code, exit code, part of standard error, bytes of standard output.
type Trouble = (Language, &'static str, i32, &'static str, usize);

const TROUBLES: &[Trouble] = &[
    (Python, "1 / 0", 1, "ZeroDivisionError", 0),
    (Python, "def (", 1, "SyntaxError", 0),
    (Python, "import sys; sys.exit(7)", 7, "", 0),
    (Python, "raise SystemExit", 0, "", 0),
    (
        Python,
        "class E(BaseException): pass\nraise E('own')",
        1,
        "own",
        0,
    ),
    (Python, "def f(): f()\nf()", 1, "RecursionError", 0),
    (Python, "print('x' * 3_000_000, end='')", 0, "", 3_000_000),
    (
        Python,
        "import os; os.write(1, b'\\xff\\0' * 10)",
        0,
        "",
        20,
    ),
    (Javascript, "throw new TypeError('own')", 1, "own", 0),
    (Javascript, "null.x", 1, "TypeError", 0),
    (Javascript, "const = 1", 1, "error", 0),
    (Javascript, "process.exit(7)", 7, "", 0),
    (
        Javascript,
        "await Promise.reject(new Error('late'))",
        1,
        "late",
        0,
    ),
    (Javascript, "(function f() { f() })()", 1, "RangeError", 0),
    (
        Javascript,
        "process.stdout.write('x'.repeat(3_000_000))",
        0,
        "",
        3_000_000,
    ),
    (Shell, "(exit 7)", 7, "", 0),
    (Shell, "no-such-program", 127, "not found", 0),
    (Shell, "if then", 2, "syntax error", 0),
    (Shell, "head -c 3000000 /dev/zero", 0, "", 3_000_000),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_leave_the_state() {
    let sandbox = sandbox(512).await;
    let [python, javascript, bash] = &contexts(&sandbox);
    run_ok(python, "x = 5").await;
    run_ok(javascript, "const x = 5").await;
    run_ok(bash, "x=5").await;
    let of = |language| match language {
        Python => (python, "print(x)"),
        Javascript => (javascript, "console.log(x)"),
        Shell => (bash, "echo $x"),
    };

    for (language, code, exit_code, err, bytes) in TROUBLES {
        let (context, asks) = of(*language);
        let transcript = run_in(context, code).await;
        assert_eq!(
            transcript.end(),
            (EndedBy::Exited, Some(*exit_code)),
            "{code}: {}",
            transcript.err()
        );
        assert!(
            transcript.err().contains(err),
            "{code}: {}",
            transcript.err()
        );
        assert_eq!(
            (transcript.stdout.len(), transcript.detail()),
            (*bytes, ""),
            "{code}"
        );
        assert_eq!(run_ok(context, asks).await, "5\n", "{code}");
    }

    // Rejected requests never reach the interpreter.
    for language in Language::ALL {
        let (context, asks) = of(language);
        for request in [
            context.request("x = 6").env("LD_PRELOAD", "/tmp/x.so"),
            context.request("x = 6").env("A", "b".repeat(4097)),
            context.request("x = 6").timeout_s(301),
            context.request("x = '\0'"),
        ] {
            let error = context.start(&request).unwrap_err();
            assert_eq!(
                (error.kind(), error.retry()),
                (ErrorKind::Invalid, Retry::Never),
                "{error}"
            );
        }

        let nowhere = context
            .start(&context.request("x = 6").cwd("/no/such/place"))
            .unwrap();

        let error = collect(nowhere).await.unwrap_err();
        assert_eq!(
            error.io_kind(),
            Some(std::io::ErrorKind::NotFound),
            "{error}"
        );
        assert_eq!(run_ok(context, asks).await, "5\n");
    }

    assert_eq!(
        sandbox
            .context("no/name", Python)
            .run("1")
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
}

/// Language, code, how it ends; then the state is lost, and the outcome reports that.
type Loss = (Language, &'static str, EndedBy, i32);

const LOSSES: &[Loss] = &[
    (Python, "import os; os._exit(3)", EndedBy::Exited, 3),
    (
        Python,
        "import ctypes; ctypes.string_at(0)",
        EndedBy::Signaled,
        139,
    ),
    (
        Python,
        "import os; os.kill(os.getpid(), 9)",
        EndedBy::Signaled,
        137,
    ),
    (
        Python,
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        EndedBy::Timeout,
        124,
    ),
    (
        Python,
        "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
        EndedBy::Timeout,
        124,
    ),
    (Javascript, "process.reallyExit(3)", EndedBy::Exited, 3),
    (
        Javascript,
        "process.kill(process.pid, 'SIGKILL')",
        EndedBy::Signaled,
        137,
    ),
    (
        Javascript,
        "await Bun.sleep(1); while (true) {}",
        EndedBy::Timeout,
        124,
    ),
    (Shell, "exit 3", EndedBy::Exited, 3),
    (Shell, "set -e; false; echo on", EndedBy::Exited, 1),
    (Shell, "kill -9 $$", EndedBy::Signaled, 137),
    (
        Shell,
        "trap '' INT TERM; while :; do :; done",
        EndedBy::Timeout,
        124,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_interpreter_loses_the_state_and_reports_it() {
    let sandbox = sandbox(512).await;
    // Each has a separate context, and the timeouts run out at the same time.
    let mut all = tokio::task::JoinSet::new();

    for (n, (language, code, ended_by, exit_code)) in LOSSES.iter().enumerate() {
        let context = sandbox.context(format!("c{n}"), *language);
        all.spawn(async move {
            let (begin, asks) = match language {
                Python => ("x = 5", "print('x' in globals())"),
                Javascript => (
                    "globalThis.x = 5",
                    "console.log('x' in globalThis ? 'True' : 'False')",
                ),
                Shell => ("x=5", "[[ -v x ]] && echo True || echo False"),
            };

            run_ok(&context, begin).await;
            assert_eq!(run_ok(&context, asks).await, "True\n");
            let request = context.request(*code);

            let seconds = if *ended_by == EndedBy::Timeout {
                2
            } else {
                120
            };

            let transcript = finish_run(context.start(&request.timeout_s(seconds)).unwrap()).await;
            assert_eq!(
                transcript.end(),
                (*ended_by, Some(*exit_code)),
                "{code}: {}",
                transcript.err()
            );
            assert!(
                transcript.detail().contains("state is lost"),
                "{code}: {}",
                transcript.detail()
            );

            // It is reported once, and the next run has a fresh interpreter.
            assert_eq!(run_ok(&context, asks).await, "False\n", "{code}");
            context.close().await.unwrap();
        });

        // Sixteen contexts are allowed, and memory is little.
        if all.len() >= 6 {
            all.join_next().await.unwrap().unwrap();
        }
    }

    while let Some(done) = all.join_next().await {
        done.unwrap();
    }

    // An interpreter that is killed between two execs: the next one reports it.
    let python = sandbox.context("between", Python);
    let pid = run_ok(&python, "import os; print(os.getpid(), end='')").await;
    finish_ok(
        sandbox
            .run(&shell(format!(
                "kill -9 {pid}; while kill -0 {pid}; do :; done 2> /dev/null"
            )))
            .unwrap(),
    )
    .await;

    let transcript = run_in(&python, "print('os' in globals())").await;
    assert_eq!(transcript.out(), "False\n");
    assert!(
        transcript.detail().contains("state was lost"),
        "{}",
        transcript.detail()
    );
    assert_eq!(run_ok(&python, "print(1)").await, "1\n");
}

/// Language and code of runs that are interrupted once they have printed `begun`.
const INTERRUPTED: &[(Language, &str)] = &[
    (Python, "print('begun')\nwhile True: pass"),
    (Python, "import time; print('begun'); time.sleep(100)"),
    (
        Python,
        "import asyncio; print('begun'); await asyncio.sleep(100)",
    ),
    (
        Python,
        "import subprocess; print('begun'); subprocess.run(['sleep', '100'])",
    ),
    (
        Javascript,
        "console.log('begun'); await new Promise(() => {})",
    ),
    (Javascript, "console.log('begun'); while (true) {}"),
    (
        Javascript,
        "console.log('begun'); await Bun.spawn(['sleep', '100']).exited",
    ),
    (Shell, "echo begun; sleep 100"),
    (Shell, "echo begun; while :; do :; done"),
    (Shell, "f() { echo begun; sleep 100 | cat; }; f"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_exec_leaves_the_state() {
    let sandbox = sandbox(512).await;
    let [python, javascript, bash] = &contexts(&sandbox);
    run_ok(python, "x = 5").await;
    run_ok(javascript, "const x = 5").await;
    run_ok(bash, "x=5").await;

    for (language, code) in INTERRUPTED {
        let (context, asks) = match language {
            Python => (python, "print(x)"),
            Javascript => (javascript, "console.log(x)"),
            Shell => (bash, "echo $x"),
        };

        let mut run = context
            .start(&context.request(*code).timeout_s(120))
            .unwrap();
        assert_eq!(next_stdout(&mut run).await, "begun\n", "{code}");
        run.canceller().cancel();
        let transcript = finish_run(run).await;
        assert_eq!(transcript.end(), (EndedBy::Cancelled, Some(130)), "{code}");
        assert_eq!(transcript.detail(), "", "{code}");

        if *language == Python {
            assert!(
                transcript.err().contains("KeyboardInterrupt"),
                "{code}: {}",
                transcript.err()
            );
        }

        assert_eq!(run_ok(context, asks).await, "5\n", "{code}");

        // A cancellation as early as possible.
        let run = context
            .start(&context.request(*code).timeout_s(120))
            .unwrap();
        run.canceller().cancel();
        let transcript = finish_run(run).await;
        assert_eq!(
            transcript.end(),
            (EndedBy::Cancelled, Some(130)),
            "early, {code}"
        );
        assert_eq!(
            run_ok(context, asks).await,
            "5\n",
            "early, {code}: {}",
            transcript.detail()
        );

        // A timeout does the same.
        let run = context.start(&context.request(*code).timeout_s(1)).unwrap();
        let transcript = finish_run(run).await;
        assert_eq!(
            (transcript.end(), transcript.detail()),
            ((EndedBy::Timeout, Some(124)), ""),
            "{code}"
        );
        assert_eq!(run_ok(context, asks).await, "5\n", "timeout, {code}");
    }

    // A program that catches it may end as it likes, and the state is kept.
    let code = "try:\n    print('begun')\n    while True: pass\nexcept KeyboardInterrupt: x = 6";
    let mut run = python.run(code).unwrap();
    read_stdout_until(&mut run, "begun\n").await;
    run.canceller().cancel();
    assert_eq!(finish_run(run).await.outcome.ended_by, EndedBy::Cancelled);
    assert_eq!(run_ok(python, "print(x)").await, "6\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_of_one_context_are_queued() {
    let sandbox = sandbox(512).await;
    let [python, javascript, bash] = &contexts(&sandbox);
    run_ok(python, "seen = []").await;

    // The first one waits for what another context does.
    let first = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nseen.append(1)";
    let run = |code: &str| python.start(&python.request(code).timeout_s(120)).unwrap();
    let (first, second) = (run(first), run("seen.append(2)"));
    let unwanted = run("seen.append('unwanted')");
    let third = run("seen.append(3)");
    unwanted.canceller().cancel();
    let unwanted = finish_run(unwanted).await;
    assert_eq!(unwanted.end(), (EndedBy::Cancelled, Some(130)));
    assert_eq!(unwanted.detail(), "cancelled before it started");
    assert_eq!(run_ok(javascript, "console.log(1)").await, "1\n");
    run_ok(bash, "touch go").await;

    for run in [third, second, first] {
        assert_eq!(finish_run(run).await.end(), (EndedBy::Exited, Some(0)));
    }

    assert_eq!(run_ok(python, "print(seen)").await, "[1, 2, 3]\n");

    // Fifty megabytes of unread output do not block other contexts.
    let noisy = run("for _ in range(800): os.write(1, b'x' * 65536)");
    for n in 0..20 {
        assert_eq!(
            run_ok(javascript, &format!("console.log({n})")).await,
            format!("{n}\n")
        );
        assert_eq!(run_ok(bash, &format!("echo {n}")).await, format!("{n}\n"));
    }

    assert_eq!(
        within_deadline("a list", sandbox.processes())
            .await
            .unwrap()
            .len(),
        3
    );

    let transcript = finish_run(noisy).await;
    assert_eq!(transcript.end(), (EndedBy::Exited, Some(0)));
    assert_eq!(transcript.stdout.len(), 800 * 65536);
    assert!(transcript.stdout.iter().all(|&byte| byte == b'x'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_context_removes_it_and_dropping_a_run_ends_it() {
    let sandbox = sandbox(512).await;
    for (language, begin, asks, endless) in [
        (
            Python,
            "x = 5",
            "print('x' in globals())",
            "print('begun')\nwhile True: pass",
        ),
        (
            Javascript,
            "var x = 5",
            "console.log('x' in globalThis ? 'True' : 'False')",
            "console.log('begun'); await new Promise(() => {})",
        ),
        (
            Shell,
            "x=5",
            "[[ -v x ]] && echo True || echo False",
            "echo begun; sleep 100",
        ),
    ] {
        let context = sandbox.context("c", language);
        run_ok(&context, begin).await;
        let mut run = context
            .start(&context.request(endless).timeout_s(120))
            .unwrap();
        assert_eq!(next_stdout(&mut run).await, "begun\n");
        let error = context.clone().close().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");

        // Dropped, it is cancelled: the next one has its turn, long before the timeout, and the state.
        drop(run);
        let next = context.start(&context.request(asks)).unwrap();
        let next = tokio::time::timeout(Duration::from_secs(60), finish_run(next))
            .await
            .unwrap();
        assert_eq!((next.out(), next.detail()), ("True\n", ""), "{endless}");
        context.clone().close().await.unwrap();
        assert!(sandbox.processes().await.unwrap().is_empty());
        assert_eq!(run_ok(&context, asks).await, "False\n");

        // The name is free for another language.
        context.close().await.unwrap();
    }

    // Programs that are dropped leave nothing behind either.
    let gone = "for i in $(seq 600); do pgrep -x sleep > /dev/null || exit 0; sleep 0.05 & wait; pgrep -f 'sleep 100' > /dev/null || exit 0; done; exit 1";
    let mut run = sandbox.run(&shell("echo begun; sleep 100")).unwrap();
    next_stdout(&mut run).await;
    drop(run);
    finish_ok(sandbox.run(&shell(gone)).unwrap()).await;
}
