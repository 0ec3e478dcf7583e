//! Each language runs as its own users expect.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::Stdio;

use fumehood_end_to_end::{finish, finish_child, fumehood, json, map_at_once};

fn stdout(language: &str, code: &str) -> String {
    let (outcome, exit) = json(language, code, &[]);
    assert_eq!(exit, 0, "{outcome:#}");
    outcome["stdout"].as_str().unwrap().to_string()
}

#[test]
fn each_language_says_hello() {
    assert_eq!(stdout("python", "print('hello')"), "hello\n");
    assert_eq!(stdout("javascript", "console.log('hello')"), "hello\n");
    assert_eq!(
        stdout(
            "typescript",
            "const x: string = 'hello'; console.log(await Promise.resolve(x))"
        ),
        "hello\n"
    );
    assert_eq!(stdout("shell", "echo hello"), "hello\n");
}

/// A JavaScript program is a file in the interpreter that waits and in a fresh one. Code that only prints constants is
/// evaluated in the one that waits.
#[test]
fn javascript_ends_alike_in_a_warm_interpreter_and_from_a_file() {
    let programs = [
        "console.log(typeof this, typeof require, import.meta.main)",
        "var x = 1; console.log(globalThis.x, eval('2'), (() => { 'use strict'; return this })())",
        "console.log(await Promise.resolve(5)); process.exitCode = 3",
        "class A { #x = 1; get x() { return this.#x } } console.log(new A().x); process.exit(4)",
        "const f = (x: number) => x; console.log(f(1))",
        "const f = (x) => x; console.log(f<number>(5))",
        "process.on('exit', (c) => console.log('exit', c)); setTimeout(() => console.log('late'), 5)",
        "process.on('uncaughtException', (e) => console.log('caught', e.message)); throw new Error('q')",
        "process.on('unhandledRejection', (e) => console.log('caught', e.message)); Promise.reject(new Error('q'))",
        "console.log([...'ab'].map((c) => c.toUpperCase()).join('-'), `${1 + 1}`, /a-->b/.test(''))",
        "const out = await new Response(Bun.spawn(['ls', '/proc/self/fd']).stdout).text(); console.log(out)",
        "await Bun.write('main.ts', 'console.log(1)'); console.log('written')",
        "const [a, b, c] = [1, 2, 3]; console.log(a < b >\n  (c))",
        "process.on('uncaughtException', () => {}); Promise.reject(new Error('q'))",
        "throw 'text'",
        "throw { a: 1 }",
        "let a = 1; let a = 2",
        "function boom(n) {\n  const rest = n;\n  throw new TypeError('no ' + rest);\n}\nboom(1)",
        "console.log('a');\nsetTimeout(() => {\n  null.x\n}, 5)",
        "throw new RangeError('outer', { cause: new Error('inner') })",
        "await Promise.reject(new Error('rejected'))",
    ];

    for code in programs {
        let ends = |options: &[&str]| {
            let (outcome, exit) = json("javascript", code, options);
            let text = |name: &str| outcome[name].as_str().unwrap().to_owned();
            (exit, text("stdout"), text("stderr"))
        };

        let ways: [&[&str]; 2] = [&[], &["--fresh-interpreter"]];
        let [function, file] = map_at_once(ways, ends);
        assert_eq!(
            (function.0, &function.1),
            (file.0, &file.1),
            "{code}: {function:?} {file:?}"
        );
        assert_eq!(
            without_columns(&function.2),
            without_columns(&file.2),
            "{code}"
        );
    }
}

/// An error as bun shows it, but for what it says of columns, where the two ways differ by a few, and of the
/// functions that a program's top level may stand in. `main.2.ts` is the file of a second interpreter.
fn without_columns(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.replace("main.2.ts", "main.ts"));

    let lines = lines.map(|line| match line.rsplit_once("main.ts:") {
        Some((_, place)) => format!("at {}", place.split(':').next().unwrap_or_default()),
        None => line,
    });

    lines.filter(|line| line.trim() != "^").collect()
}

/// Bun waits for its top level for ever, although nothing is pending.
#[test]
fn javascript_waits_for_its_top_level_like_bun() {
    let code = "console.log('a'); await new Promise(() => {})";
    let (outcome, _) = json("javascript", code, &["--timeout", "4"]);
    assert_eq!(
        (&outcome["ended_by"], &outcome["stdout"]),
        (&"timeout".into(), &"a\n".into()),
        "{outcome:#}"
    );
}

#[test]
fn code_comes_from_standard_input_and_from_a_file() {
    let mut child = fumehood();
    child
        .args(["run", "-l", "python", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());

    let mut child = child.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"print(6*7)")
        .unwrap();
    assert_eq!(finish_child(child).stdout, b"42\n");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("program.ts");
    std::fs::write(&file, "const n: number = 6 * 7; console.log(n)").unwrap();
    let mut command = fumehood();
    command.arg("run").arg(&file);
    assert_eq!(finish(command).stdout, b"42\n");
}

#[test]
fn a_traceback_shows_the_source_and_nothing_of_the_runner() {
    let (outcome, exit) = json("python", "def f():\n    return 1 / 0\nf()\n", &[]);
    let stderr = outcome["stderr"].as_str().unwrap();
    assert_eq!(exit, 1);
    assert!(
        stderr.contains("return 1 / 0") && stderr.contains("ZeroDivisionError"),
        "{stderr}"
    );
    assert!(!stderr.contains("/run/fumehood"), "{stderr}");
}

#[test]
fn the_environment_reaches_programs_and_their_children() {
    let code = "import os, subprocess; print(os.environ['A'], subprocess.check_output(['printenv', 'A']).decode().strip())";
    let (outcome, _) = json("python", code, &["-e", "A=b c"]);
    assert_eq!(outcome["stdout"], "b c b c\n", "{outcome:#}");
}

#[test]
fn the_common_tools_are_there() {
    let tools = "git curl jq grep find sed gawk diff patch less make tree tar gzip unzip file uv bun python3";
    let missing = stdout(
        "shell",
        &format!("for t in {tools}; do command -v $t >/dev/null || echo $t; done"),
    );
    assert_eq!(missing, "");
}

#[test]
fn python_uses_compiled_files() {
    let code = "python3 -v -c 'import json, typing, asyncio' 2>&1 | grep -c \"code object from '/usr/lib/python3.*[.]py'\"";
    assert_eq!(stdout("shell", &format!("{code} || true")), "0\n");
}

#[test]
fn programs_are_unprivileged_and_without_network() {
    let text = stdout(
        "shell",
        "id -u; ls /sys/class/net; grep NoNewPrivs /proc/self/status; ls -d /proc/1 2>&1; touch /usr/x 2>&1; true",
    );
    assert!(text.starts_with("1000\nlo\nNoNewPrivs:\t1\n"), "{text}");
    assert!(text.contains("'/proc/1': No such file"), "{text}");
    assert!(text.contains("Permission denied"), "{text}");
}

#[test]
fn the_guest_trusts_the_hosts_certificates() {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    let Ok(host) = std::fs::read(bundle) else {
        println!("this host has no bundle");
        return;
    };
    assert_eq!(
        stdout("shell", &format!("wc -c < {bundle}")).trim(),
        host.len().to_string()
    );
}

#[test]
fn the_clock_is_right() {
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };

    let before = now();
    let guest: f64 = stdout("python", "import time; print(time.time())")
        .trim()
        .parse()
        .unwrap();
    assert!(
        guest > before - 2.0 && guest < now() + 2.0,
        "guest {guest}, host {before}"
    );

    // A guest's second is neither shorter than one nor longer than what passes here meanwhile.
    let code = "import time; t = time.monotonic(); time.sleep(1); print(time.monotonic() - t)";
    let (outcome, _) = json("python", code, &[]);
    let slept: f64 = outcome["stdout"].as_str().unwrap().trim().parse().unwrap();
    let passed = outcome["timing"]["execute_ms"].as_f64().unwrap() / 1000.0;
    assert!(
        slept >= 1.0 && slept < passed,
        "a second of sleep took {slept} of {passed}"
    );
}
