//! Inputs and outputs of contexts: values, standard input, variables, directories.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::{
    RunTranscript, finish_run, next_stdout, read_stdout_until, run_in, sandbox, within_deadline,
};
use fumehood_engine::{Context, EndedBy, ErrorKind, Language, RunRequest};

async fn run_displaying(context: &Context, code: &str) -> RunTranscript {
    finish_run(
        context
            .start(&context.request(code).timeout_s(120).display())
            .unwrap(),
    )
    .await
}

async fn run_ok(context: &Context, code: &str) -> String {
    let transcript = run_in(context, code).await;
    assert_eq!(
        transcript.end(),
        (EndedBy::Exited, Some(0)),
        "{code}: {}",
        transcript.err()
    );

    transcript.out().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_shows_values() {
    let sandbox = sandbox(512).await;
    let python = sandbox.context("c", Language::Python);
    for (code, texts) in [
        ("x = 6\nx * 7", vec!["42"]),
        ("_ + 1", vec!["43"]),
        ("x = 1", vec![]),
        ("None", vec![]),
        ("display('a'); display(2)\n'é'", vec!["'a'", "2", "'é'"]),
        (
            "import asyncio\nasync def f(): return 5\nawait f()",
            vec!["5"],
        ),
        ("print('{\"text/plain\": \"forged\"}')", vec![]),
    ] {
        assert_eq!(run_displaying(&python, code).await.texts(), texts, "{code}");
    }
    let rich = "class Rich:
    def __repr__(self): return 'rich'
    def _repr_html_(self): return '<b>rich</b>'
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_json_(self): return {'a': [1, None]}
Rich()";
    let transcript = run_displaying(&python, rich).await;
    let [value] = &transcript.results[..] else {
        panic!("{:?}", transcript.results)
    };
    assert_eq!(value.text().as_deref(), Some("rich"));
    assert_eq!(value.get("text/html").unwrap(), "<b>rich</b>");
    assert_eq!(value.get("image/png").unwrap(), "iVBORw==");
    assert_eq!(value.get("application/json").unwrap()["a"][0], 1);
    assert_eq!(value.types().count(), 4);

    // Unasked, nothing is shown; and what cannot be shown is the program's error.
    assert!(run_in(&python, "x").await.results.is_empty());
    let broken_repr =
        run_displaying(&python, "class Bad:\n    def __repr__(self): 1 / 0\nBad()").await;
    assert_eq!(
        (broken_repr.end(), broken_repr.results.len()),
        ((EndedBy::Exited, Some(1)), 0)
    );
    assert!(
        broken_repr.err().contains("ZeroDivisionError"),
        "{}",
        broken_repr.err()
    );

    // One of 6 MB comes whole, one of 20 MB as a part of its text.
    assert_eq!(
        run_displaying(&python, "'x' * 6_000_000").await.texts()[0].len(),
        6_000_002
    );
    let cut = run_displaying(&python, "'x' * 20_000_000").await;
    assert!(cut.texts()[0].len() <= 64 << 10, "{}", cut.texts()[0].len());
    assert!(!cut.err().is_empty());

    // Not only in contexts.
    let once = RunRequest::new(Language::Python, "6 * 7").display();
    assert_eq!(
        finish_run(sandbox.run(&once).unwrap()).await.texts(),
        ["42"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_shows_values() {
    let sandbox = sandbox(512).await;
    let javascript = sandbox.context("c", Language::Javascript);

    for (code, parts) in [
        ("const x: number = 6; x * 7", vec!["42"]),
        ("const x = 7", vec![]),
        ("x", vec!["7"]),
        ("const o = { a: 1, b: ['c'] }; o", vec!["a: 1"]),
        ("display(1); display('two'); undefined", vec!["1", "two"]),
        (
            "await new Promise<number>(done => setTimeout(() => done(8), 5))",
            vec!["8"],
        ),
    ] {
        let transcript = run_displaying(&javascript, code).await;
        assert_eq!(
            transcript.texts().len(),
            parts.len(),
            "{code}: {:?} {}",
            transcript.texts(),
            transcript.err()
        );

        for (text, part) in transcript.texts().iter().zip(parts) {
            assert!(text.contains(part), "{code}: {text}");
        }
    }

    let object = run_displaying(&javascript, "({ a: [1, null], b: 'c' })").await;
    assert!(
        object.results[0].text().unwrap().contains("a: "),
        "{object:?}"
    );
    assert!(run_in(&javascript, "x").await.results.is_empty());

    // The shell has no display values, only output.
    let bash = sandbox.context("s", Language::Shell);
    let transcript = run_displaying(&bash, "echo 1").await;
    assert_eq!((transcript.out(), transcript.results.len()), ("1\n", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn common_forms_of_code_are_accepted() {
    let sandbox = sandbox(512).await;
    let python = sandbox.context("p", Language::Python);
    let javascript = sandbox.context("j", Language::Javascript);

    for (context, code, out) in [
        (
            &python,
            "import asyncio\nseen = []\nasync def tick():\n    while True:\n        seen.append(1)\n        await asyncio.sleep(0)\ntask = asyncio.create_task(tick())\nawait asyncio.sleep(0)",
            "",
        ),
        (
            &python,
            "await asyncio.sleep(0.05); print(len(seen) > 1)",
            "True\n",
        ),
        (
            &python,
            "async with asyncio.timeout(5): print('within')",
            "within\n",
        ),
        (
            &python,
            "print([n async for n in (m async for m in aiter(asyncio.Queue()))] if False else 'é\\n☂')",
            "é\n☂\n",
        ),
        (
            &javascript,
            "const x: number = 1; enum E { A, B }\ninterface I { a: string }\nconst f = (v: I): string => v.a",
            "",
        ),
        (
            &javascript,
            "const x = 2 satisfies number; console.log(x, E.B, f({ a: 'b' }))",
            "2 1 b\n",
        ),
        (
            &javascript,
            "const { x: y, ...rest } = { x: 3, z: 4 }; class K { #p = 5; get p() { return this.#p } }",
            "",
        ),
        (
            &javascript,
            "const x = 6; const K2 = K; console.log(x, y, rest.z, new K2().p)",
            "6 3 4 5\n",
        ),
        (
            &javascript,
            "import { join } from 'node:path'; const t = await Promise.resolve(join('a', 'b')); console.log(t)",
            "a/b\n",
        ),
        (
            &javascript,
            "for await (const n of (async function* () { yield 1; yield 2 })()) console.log(n)",
            "1\n2\n",
        ),
        (&javascript, "console.log(join('c', t))", "c/a/b\n"),
    ] {
        assert_eq!(run_ok(context, code).await, out, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_arrives_when_it_is_sent() {
    let sandbox = sandbox(512).await;
    for (language, asks, reads) in [
        (
            Language::Python,
            "print('name?')\nname = input()\nprint('hello', name)\nimport sys; rest = sys.stdin.read(); print(len(rest))",
            "print(name, len(rest))",
        ),
        (
            Language::Javascript,
            "console.log('name?'); const name = prompt(''); console.log('hello', name); const rest = await Bun.stdin.text(); console.log(rest.length)",
            "console.log(name, rest.length)",
        ),
        (
            Language::Shell,
            "echo 'name?'; read -r name; echo hello $name; rest=$(cat; echo x); rest=${rest%x}; echo ${#rest}",
            "echo $name ${#rest}",
        ),
    ] {
        let context = sandbox.context(language.as_str(), language);
        for name in ["Ada", "Zoë"] {
            let mut run = context
                .start(&context.request(asks).timeout_s(120).stdin())
                .unwrap();

            let mut input = run.input();
            assert!(next_stdout(&mut run).await.starts_with("name?"));
            input.write(format!("{name}\n")).await.unwrap();
            read_stdout_until(&mut run, &format!("hello {name}\n")).await;
            input.write("x".repeat(500_000)).await.unwrap();
            input.close().await;
            let transcript = finish_run(run).await;
            assert_eq!(
                (transcript.out(), transcript.end().1),
                ("500000\n", Some(0)),
                "{asks}: {}",
                transcript.err()
            );

            // Once the exec has ended, further input is rejected.
            assert_eq!(
                input.write("more").await.unwrap_err().kind(),
                ErrorKind::Lost
            );
            assert_eq!(run_ok(&context, reads).await, format!("{name} 500000\n"));
        }

        // Without input there is none, and it does not wait.
        let empty = match language {
            Language::Python => "import sys; print(repr(sys.stdin.read()))",
            Language::Javascript => "console.log(JSON.stringify(await Bun.stdin.text()))",
            Language::Shell => "printf '<%s>\\n' \"$(cat)\"",
        };

        let said = run_ok(&context, empty).await;
        assert!(
            ["''\n", "\"\"\n", "<>\n"].contains(&said.as_str()),
            "{said}"
        );
    }

    // Input without a request for it is rejected.
    let bash = sandbox.context("shell", Language::Shell);
    let mut run = bash.run("echo up; sleep 100").unwrap();
    next_stdout(&mut run).await;
    let mut input = run.input();
    let _ = within_deadline("a refusal", input.write("x")).await;
    run.canceller().cancel();
    assert_eq!(finish_run(run).await.outcome.ended_by, EndedBy::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_and_directories_apply_to_one_exec() {
    let sandbox = sandbox(512).await;
    sandbox.files().make_dir("a/b").await.unwrap();

    for (language, code) in [
        (
            Language::Python,
            "import os; print(os.environ.get('A', '-'), os.getcwd())",
        ),
        (
            Language::Javascript,
            "console.log(process.env.A ?? '-', process.cwd())",
        ),
        (Language::Shell, "echo \"${A--}\" \"$PWD\""),
    ] {
        let context = sandbox.context(language.as_str(), language);
        let home = run_ok(&context, code).await;
        let home = home.strip_prefix("- ").unwrap().trim_end();

        for (cwd, place) in [("/usr", "/usr".to_string()), ("a/b", format!("{home}/a/b"))] {
            let request = context
                .request(code)
                .env("A", "b 'c'\n$d")
                .cwd(cwd)
                .timeout_s(120);

            let transcript = finish_run(context.start(&request).unwrap()).await;
            assert_eq!(
                transcript.out(),
                format!("b 'c'\n$d {place}\n"),
                "{}",
                transcript.err()
            );
            assert_eq!(run_ok(&context, code).await, format!("- {home}\n"));
        }

        // The same for one-shot code.
        let once = RunRequest::new(language, code)
            .env("A", "z")
            .cwd("a")
            .timeout_s(120);

        let transcript = finish_run(sandbox.run(&once).unwrap()).await;
        assert_eq!(
            transcript.out(),
            format!("z {home}/a\n"),
            "{}",
            transcript.err()
        );

        // Changes that the code itself makes stay.
        let moves = match language {
            Language::Python => "os.chdir('/tmp'); os.environ['A'] = 'own'",
            Language::Javascript => "process.chdir('/tmp'); process.env.A = 'own'",
            Language::Shell => "cd /tmp; export A=own",
        };

        run_ok(&context, moves).await;
        assert_eq!(run_ok(&context, code).await, "own /tmp\n");
    }
}
