//! JavaScript contexts: input, output, values, interrupts and abuse.

use std::time::{Duration, Instant};

use fumehood_protocol::{
    ContextName, EndedBy, EnvVars, ErrorType, Exec, GuestPath, Request, Response,
};
use serde_json::{Value, json};

use crate::interpreters::javascript::{JAVASCRIPT, agent, run, run_in};
use crate::interpreters::prepared::run_with;
use crate::operations::input::stdin;
use crate::support::{Outcome, exec, wait_until};

#[test]
fn interrupts_end_the_exec_and_keep_the_state() {
    let Some(agent) = agent() else { return };
    let mut client = agent.hello(&["cancel"]);
    run(&mut client, "const x = 1");
    for code in [
        "while (true) {}",
        "await new Promise(() => {})",
        "await Bun.sleep(60000)",
        "await 1; try { while (true) {} } catch {}",
        "Bun.spawnSync(['sleep', '60'])",
        "await Bun.spawn(['sleep', '60']).exited",
    ] {
        let outcome = run_in(&mut client, "j", code, |request| request.timeout = Some(1));
        let complete = outcome.complete();
        assert_eq!(
            (complete.ended_by, complete.exit_code),
            (EndedBy::Timeout, 124),
            "{code}"
        );
        assert_eq!(complete.evidence.detail, None, "{code}");
        assert_eq!(outcome.err(), "interrupted\n", "{code}");
        assert_eq!(run(&mut client, "console.log(x)").out(), "1\n", "{code}");
    }
    let mut request = exec(
        Some(1),
        JAVASCRIPT,
        "console.log('begun'); for (;;) await Bun.sleep(1)",
    );
    request.context = Some(ContextName::new("j"));
    client.send(&Request::Exec(request));
    assert!(matches!(client.response(), Response::Stdout(_)));
    client.cancel(1);
    let mut outcome = Outcome::default();
    outcome.pieces.push(Vec::new());
    client.collect_rest(&mut outcome);
    assert_eq!(outcome.complete().ended_by, EndedBy::Cancelled);
    assert_eq!(run(&mut client, "console.log(x)").out(), "1\n");
    // An abandoned program may continue, but does not end another one.
    let late = "await Bun.sleep(1300); console.log('late'); throw new Error('stale')";
    run_in(&mut client, "j", late, |request| request.timeout = Some(1));
    let next = run(&mut client, "await Bun.sleep(600); console.log('whole')");
    assert_eq!(
        (next.out(), next.complete().exit_code),
        ("late\nwhole\n", 0)
    );
    assert!(next.err().contains("error: stale\n"), "{}", next.err());
    // Code that never pauses again after a wait does not notice an interrupt.
    let stubborn = "await Bun.sleep(1); while (true) {}";
    let outcome = run_in(&mut client, "j", stubborn, |request| {
        request.timeout = Some(1)
    });
    assert_eq!(outcome.complete().evidence.signal, Some(9));
    assert!(
        outcome
            .complete()
            .evidence
            .detail
            .as_deref()
            .unwrap()
            .contains("lost")
    );
    assert_eq!(
        run(&mut client, "console.log(typeof x)").out(),
        "undefined\n"
    );
}

#[test]
fn background_work_continues_between_execs() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let server = "let ticks = 0; setInterval(() => ticks++, 5)
const server = Bun.serve({ port: 0, fetch: () => new Response('served ' + ticks) })
console.log(server.port)";
    let port = run(&mut client, server).out().trim().to_string();
    std::thread::sleep(Duration::from_millis(100));
    let mut stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let mut answer = String::new();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.contains("served "), "{answer}");
    assert_eq!(run(&mut client, "console.log(ticks > 5)").out(), "true\n");
    // A failure between two execs is shown by the next one, and ends nothing.
    run(
        &mut client,
        "const soon = setInterval(() => { clearInterval(soon); console.log('late'); require('fs').writeFileSync('flag', ''); throw new Error('between') }, 300)",
    );
    let flag = agent.directory.path().join("flag");
    wait_until("the timer has run", || flag.exists());
    let next = run(&mut client, "console.log('next')");
    assert_eq!((next.out(), next.complete().exit_code), ("late\nnext\n", 0));
    assert!(next.err().contains("error: between\n"), "{}", next.err());
    // The process is idle while nothing runs.
    run(
        &mut client,
        "server.stop(); clearInterval(ticks); for (let i = 0; i < 99; i++) clearInterval(i)",
    );
    let idle = "const before = process.cpuUsage(); setInterval(() => (globalThis.after ??= process.cpuUsage(before)), 300)";
    run(&mut client, idle);
    std::thread::sleep(Duration::from_millis(400));
    let used = run(&mut client, "console.log(after.user + after.system)");
    let micros: u64 = used.out().trim().parse().unwrap();
    assert!(micros < 150_000, "{micros} us of 300 ms");
}

#[test]
fn variables_and_directory_last_for_one_exec() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("node_modules/dep")).unwrap();
    std::fs::write(
        place.path().join("node_modules/dep/index.js"),
        "module.exports = 'dep'",
    )
    .unwrap();
    std::fs::write(
        place.path().join("lib.ts"),
        "export default 'lib' as string",
    )
    .unwrap();
    let directory = place.path().to_str().unwrap().to_string();
    let cwd = |request: &mut Exec| request.cwd = Some(GuestPath::new(directory.clone()));
    let code = "console.log(process.env.A, new Date(0).getHours(), Bun.spawnSync(['sh', '-c', 'printf \"$A\"']).stdout.toString())";
    let vars = |pairs: &[(&str, &str)]| -> EnvVars { pairs.iter().copied().collect() };
    for (given, out) in [
        (vars(&[]), "undefined 0 \n"),
        (vars(&[("A", "b c"), ("TZ", "Asia/Tokyo")]), "b c 9 b c\n"),
        (vars(&[]), "undefined 0 \n"),
    ] {
        let outcome = run_in(&mut client, "j", code, |request| request.env_vars = given);
        assert_eq!(outcome.out(), out, "{}", outcome.err());
    }
    run(
        &mut client,
        "const home = process.cwd(); process.env.B = 'own'",
    );
    let modules = "import dep from 'dep'; import lib from './lib'; console.log(dep, lib, require('dep'), __dirname === import.meta.dir, process.cwd() === home)";
    let there = run_in(&mut client, "j", modules, cwd);
    assert_eq!(there.out(), "dep lib dep true false\n", "{}", there.err());
    assert_eq!(
        run(
            &mut client,
            "console.log(process.cwd() === home, process.env.B)"
        )
        .out(),
        "true own\n"
    );
    assert_eq!(run(&mut client, "import './lib'").complete().exit_code, 1);
    let moved = run(
        &mut client,
        &format!("process.chdir('{directory}'); console.log((await import('./lib')).default)"),
    );
    assert_eq!(moved.out(), "lib\n", "{}", moved.err());
    let after = run(
        &mut client,
        "console.log((await import('./lib')).default, process.cwd() === home)",
    );
    assert_eq!(after.out(), "lib false\n", "it persists");
    let nowhere = |request: &mut Exec| request.cwd = Some(GuestPath::new("/no/such/place"));
    let error = run_in(&mut client, "j", "1", nowhere).error.unwrap();
    assert_eq!(error.error_type, ErrorType::PathError);
    assert_eq!(
        run(&mut client, "console.log(typeof home)").out(),
        "string\n"
    );
    // The same for one-shot programs.
    let once = run_with(&mut client, JAVASCRIPT, "console.log(process.cwd())", cwd);
    assert_eq!(
        once.out().trim(),
        std::fs::canonicalize(&directory).unwrap().to_str().unwrap()
    );
}

#[test]
fn every_exec_has_its_own_input() {
    let Some(agent) = agent() else { return };
    let mut client = agent.hello(&[]);
    let readers = [
        "console.log(require('fs').readFileSync(0, 'utf8').trim())",
        "console.log((await Bun.stdin.text()).trim())",
        "console.log((await new Response(Bun.stdin.stream()).text()).trim())",
        "for await (const line of console) console.log(line)",
        "console.log(prompt('')); console.log(prompt(''))",
        "let all = ''; for await (const piece of process.stdin) all += piece; console.log(all.trim())",
        "process.stdin.on('data', data => process.stdout.write(data)); await new Promise(r => process.stdin.on('end', r))",
        "import rl from 'node:readline'; for await (const line of rl.createInterface({ input: process.stdin })) console.log(line)",
    ];
    for round in 0..2 {
        for code in readers {
            let mut request = exec(Some(1), JAVASCRIPT, code);
            request.stdin = true;
            request.context = Some(ContextName::new("j"));
            client.send(&Request::Exec(request));
            stdin(&mut client, 1, b"on", false);
            stdin(&mut client, 1, b"e\ntwo\n", true);
            let outcome = client.outcome();
            let shown = outcome.out().replace(' ', "");
            assert_eq!(
                shown,
                "one\ntwo\n",
                "{code}, round {round}: {}",
                outcome.err()
            );
        }
        let none = run(
            &mut client,
            "let n = 0; for await (const piece of process.stdin) n++; console.log(n, await Bun.stdin.text(), prompt(''))",
        );
        assert_eq!(none.out().trim_start(), "0  null\n", "{}", none.err());
    }
}

fn display(request: &mut Exec) {
    request.display = true;
}

fn plain(text: &str) -> Value {
    json!({ "text/plain": text })
}

/// Code, and the values that it displays.
fn shown() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("1 + 1", vec![plain("2")]),
        ("const a: number = 5; a // end", vec![plain("5")]),
        ("await Promise.resolve('text')", vec![plain("\"text\"")]),
        (
            "[1, 'two', null]",
            vec![
                json!({ "text/plain": "[ 1, \"two\", null ]", "application/json": [1, "two", null] }),
            ],
        ),
        (
            "{ x: 1 }",
            vec![json!({ "text/plain": "{\n  x: 1,\n}", "application/json": { "x": 1 } })],
        ),
        (
            "const loop: any = {}; loop.loop = loop; loop",
            vec![plain("{\n  loop: [Circular],\n}")],
        ),
        ("new Map([[1, 2]])", vec![plain("Map(1) {\n  1: 2,\n}")]),
        ("undefined", vec![]),
        (
            "new Promise(() => {})",
            vec![plain("Promise { <pending> }")],
        ),
        (
            "new TypeError('told')",
            vec![plain(
                "1 | new TypeError('told')\n    ^\nTypeError: told\n      at exec-10.ts:1:1",
            )],
        ),
        ("const b = 1, c = 2", vec![]),
        ("let d = 1", vec![]),
        ("d = 3", vec![plain("3")]),
        ("const { e } = { e: 1 }", vec![]),
        ("import fs from 'fs'", vec![]),
        ("class K {}", vec![]),
        ("enum E { A }", vec![]),
        ("function f() {}", vec![]),
        ("if (true) { 1 }", vec![]),
        (
            "display('a', 2); 3",
            vec![plain("\"a\""), plain("2"), plain("3")],
        ),
        (
            "({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': '<b>' }) })",
            vec![json!({ "text/html": "<b>" })],
        ),
        (
            "({ [Symbol.for('Jupyter.display')]: async () => ({ 'text/html': '<i>\\n' }) })",
            vec![json!({ "text/html": "<i>\n" })],
        ),
        ("display(1); throw new Error('x')", vec![plain("1")]),
    ]
}

#[test]
fn values_are_displayed_on_request() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    for (code, values) in shown() {
        let outcome = run_in(&mut client, "j", code, display);
        assert_eq!(outcome.values(), values, "{code}: {}", outcome.err());
        outcome.check_summaries();
    }
    assert!(run(&mut client, "5").results.is_empty(), "nobody wanted it");
    assert_eq!(
        run(&mut client, "console.log(typeof display)").out(),
        "undefined\n"
    );
    // A large value, and one that is too large.
    let outcome = run_in(&mut client, "j", "'x'.repeat(8_000_000)", display);
    assert_eq!(
        outcome.values()[0]["text/plain"].as_str().unwrap().len(),
        8_000_002
    );
    let outcome = run_in(&mut client, "j", "'é'.repeat(5_000_000)", display);
    let text = outcome.values()[0]["text/plain"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(text.len() <= 65_536 && text.len() > 65_000 && text.ends_with('é'));
    assert_eq!(
        outcome.err(),
        "a value of more than 8 MiB is shown cut to 64 KiB\n"
    );
}

#[test]
fn one_shot_programs_display_values_and_exit_normally() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    for prepared in [false, true] {
        for (code, values, exit) in [
            ("1 + 1", vec![plain("2")], 0),
            (
                "setTimeout(() => { display('late'); process.exitCode = 3 }, 5); 1",
                vec![plain("1"), plain("\"late\"")],
                3,
            ),
            ("display(1); process.exit(4)", vec![plain("1")], 4),
            (
                "setTimeout(() => { throw new Error('late') }, 5); 1",
                vec![plain("1")],
                1,
            ),
            ("await new Promise(() => {})", vec![], 13),
            ("const bad = ;", vec![], 1),
        ] {
            if prepared {
                let ready = run_with(&mut client, JAVASCRIPT, "1", |request| {
                    request.prepare = true
                });
                assert_eq!(ready.complete().exit_code, 0);
            }
            let outcome = run_with(&mut client, JAVASCRIPT, code, display);
            assert_eq!(outcome.values(), values, "{code}: {}", outcome.err());
            assert_eq!(
                outcome.complete().exit_code,
                exit,
                "{code}: {}",
                outcome.err()
            );
        }
    }
}

#[test]
fn output_is_complete_before_the_end() {
    let Some(agent) = agent() else { return };
    let mut client = agent.hello(&[]);
    for (code, out, err) in [
        ("console.log('x'.repeat(10_000_000))", 10_000_001, 0),
        (
            "for (let i = 0; i < 1000; i++) console.log('y'.repeat(999))",
            1_000_000,
            0,
        ),
        (
            "process.stdout.write('z'.repeat(5_000_000), () => console.log('back'))",
            5_000_005,
            0,
        ),
        (
            "process.stderr.write('e'.repeat(3_000_000)); process.stdout.write('z'.repeat(3_000_000)); process.exit(0)",
            3_000_000,
            3_000_000,
        ),
        (
            "await Bun.write(Bun.stdout, 'w'.repeat(3_000_000))",
            3_000_000,
            0,
        ),
    ] {
        let outcome = run(&mut client, code);
        assert_eq!(
            (outcome.stdout.len(), outcome.stderr.len()),
            (out, err),
            "{code}"
        );
        outcome.check_summaries();
    }
}

/// A program that writes to the interpreter's descriptors only harms its own context.
#[test]
fn forged_control_messages_only_harm_their_own_context() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    for (number, code) in [
        "require('fs').writeSync(4, '0\\n')",
        "require('fs').writeSync(4, 'r\\n77\\n0\\n'); await Bun.sleep(50)",
        "require('fs').writeSync(4, 'x'.repeat(1000))",
        "try { require('fs').writeSync(3, 'o') } catch {}",
        "require('fs').writeSync(5, 'no json\\n{\"text/plain\":\"forged\"}\\n')",
        "require('fs').closeSync(5); display(1)",
        "require('fs').closeSync(3)",
        "for (const fd of [0, 1, 2]) require('fs').closeSync(fd)",
        "require('fs').closeSync(4); process.exitCode = 6",
        "process.removeAllListeners(); globalThis.process = globalThis.Promise = globalThis.console = 5",
        "globalThis.setImmediate = Object.defineProperty = Array.prototype.map = undefined",
        "process.kill(process.pid, 9)",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("forger-{number}");
        let begun = Instant::now();
        let outcome = run_in(&mut client, &name, code, |request| {
            request.timeout = Some(5);
            request.display = true;
        });
        assert!(outcome.complete.is_some(), "{code}: {outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{code}");
        let other = run_in(&mut client, "other", "console.log('works')", |_| {});
        assert_eq!((other.out(), other.err()), ("works\n", ""), "{code}");
        // It ends by a control message or by the end of the process; in any case it ends.
        let again = run_in(&mut client, &name, "1", |request| request.timeout = Some(5));
        assert!(again.complete.is_some(), "{code}: {again:?}");
    }
    client.ping();
}

#[test]
fn children_inherit_no_agent_descriptors() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let code = "console.log(Bun.spawnSync(['sh', '-c', 'echo $(ls /proc/self/fd)']).stdout.toString().trim())";
    assert_eq!(
        run(&mut client, code).out(),
        "0 1 2 3\n",
        "3 is the listing's own"
    );
}
