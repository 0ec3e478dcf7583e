//! JavaScript contexts: what they have in common with files.

use fumehood_protocol::EndedBy;

use crate::interpreters::javascript::{Case, agent, all, run, run_in};

/// Code that leaves something pending, and everything that it prints.
const PENDING: &[Case] = &[
    (
        "async function main() { await Bun.sleep(50); console.log('DONE') } main();",
        "DONE\n",
        "",
        0,
    ),
    ("main(); console.log('first')", "first\nDONE\n", "", 0),
    (
        "async function bad() { await Bun.sleep(50); throw new Error('lost') } bad()",
        "",
        "error: lost\n",
        1,
    ),
    (
        "setTimeout(() => console.log('timer'), 50)",
        "timer\n",
        "",
        0,
    ),
    (
        "require('child_process').exec('echo child', (e, out) => console.log(out.trim()))",
        "child\n",
        "",
        0,
    ),
    (
        "require('fs').stat('/', (e, stats) => console.log(stats.isDirectory()))",
        "true\n",
        "",
        0,
    ),
    (
        "setInterval(() => {}, 20); Bun.serve({ port: 0, fetch() {} }); require('http').createServer().listen(0); require('net').createServer().listen(0)",
        "",
        "",
        0,
    ),
    (
        "setTimeout(() => console.log('never'), 60000).unref(); console.log('unref')",
        "unref\n",
        "",
        0,
    ),
    ("new Promise(() => {})", "", "", 0),
    (
        "process.once('beforeExit', () => {}); process.removeAllListeners(); setTimeout(() => console.log('late'), 20)",
        "late\n",
        "",
        0,
    ),
];

#[test]
fn pending_work_is_awaited() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    all(&mut client, PENDING);

    // What an interrupted program has left does not delay later ones.
    let left = "await Bun.sleep(60000)";
    let outcome = run_in(&mut client, "j", left, |request| request.timeout = Some(1));
    assert_eq!(outcome.complete().ended_by, EndedBy::Timeout);
    all(
        &mut client,
        &[("setTimeout(() => {}, 1); console.log('on')", "on\n", "", 0)],
    );
}

/// Code that sees whether it is a file.
const LIKE_FILES: &[Case] = &[
    (
        "if (require.main === module) console.log('main', process.mainModule === module, module.id)",
        "main true .\n",
        "",
        0,
    ),
    (
        "console.log(process.env.NODE_ENV, process.execArgv.length)",
        "undefined 0\n",
        "",
        0,
    ),
    (
        "Promise.resolve().then(() => console.log('promise')); process.nextTick(() => { console.log('tick'); process.nextTick(() => console.log('inner')) }); console.log('sync')",
        "sync\ntick\ninner\npromise\n",
        "",
        0,
    ),
    (
        "process.nextTick(() => { throw new Error('in a tick') })",
        "",
        "error: in a tick\n",
        1,
    ),
    (
        "console.trace('here')",
        "here\n      at exec-5.ts:1:14\n",
        "",
        0,
    ),
    (
        "console.log(Math.abs(performance.timeOrigin + performance.now() - Date.now()) < 200, process.uptime() < 5)",
        "true true\n",
        "",
        0,
    ),
    (
        "var Array = 1, Buffer = 2, Error = 3, JSON = 4, Map = 5, Number = 6, Object = 7, Promise = 8, RegExp = 9, Set = 10, String = 11, Symbol = 12, Atomics = 13, setImmediate = 14, setTimeout = 15",
        "",
        "",
        0,
    ),
    ("await 1; console.log(Buffer, JSON)", "2 4\n", "", 0),
];

#[test]
fn context_is_like_a_file() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    all(&mut client, LIKE_FILES);
    let shown = run_in(&mut client, "j", "[1, { a: null }]", |request| {
        request.display = true
    });
    assert_eq!(
        shown.values()[0]["application/json"],
        serde_json::json!([1, { "a": null }])
    );
}

/// A piece of code with many declarations takes as long per declaration as a small one.
#[test]
fn rewriting_takes_linear_time() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let code = |count: usize| -> String {
        let declare = |n: usize| {
            format!(
                "enum E{n} {{ A, B = 5, C }}\nfunction f{n}(a: number, b = 'x'): string {{\n  return `${{a}}${{b}}${{E{n}.C}}`\n}}\n"
            )
        };
        (0..count).map(declare).collect::<String>() + "console.log(f0(1))"
    };
    let mut time = |count: usize| {
        let started = std::time::Instant::now();
        assert_eq!(run(&mut client, &code(count)).out(), "1x6\n");
        started.elapsed()
    };
    // The first run of a size compiles the code that it needs.
    time(10);
    let small = (0..5).map(|_| time(40)).min().unwrap();
    let large = (0..3).map(|_| time(400)).min().unwrap();
    assert!(large < small * 60, "40: {small:?}, 400: {large:?}");
}
