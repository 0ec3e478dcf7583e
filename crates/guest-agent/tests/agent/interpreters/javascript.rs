//! JavaScript contexts: state, errors and exits.

use fumehood_protocol::{ContextName, EndedBy, Exec, Language};

use crate::interpreters::prepared::run_with;
use crate::support::{Agent, Client, Outcome, bun};

pub const JAVASCRIPT: Language = Language::Javascript;

/// An agent, if this machine has bun.
pub fn agent() -> Option<Agent> {
    if bun().is_none() {
        eprintln!("skipped: no bun; set FUMEHOOD_TEST_BUN to one");
        return None;
    }
    Some(Agent::start(&["--no-token", "--limit", "grace_ms=500"]))
}

pub fn run_in(
    client: &mut Client,
    name: &str,
    code: &str,
    change: impl FnOnce(&mut Exec),
) -> Outcome {
    run_with(client, JAVASCRIPT, code, |request| {
        request.context = Some(ContextName::new(name));
        change(request);
    })
}

pub fn run(client: &mut Client, code: &str) -> Outcome {
    run_in(client, "j", code, |_| {})
}

/// An exec: code, standard output, part of standard error, exit code.
pub type Case = (&'static str, &'static str, &'static str, i32);

/// Runs execs one after another in a context.
pub fn all(client: &mut Client, execs: &[Case]) {
    for (code, out, err, exit) in execs {
        let outcome = run(client, code);
        assert_eq!(outcome.out(), *out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert!(
            !err.is_empty() || outcome.err().is_empty(),
            "{code}: {}",
            outcome.err()
        );
        let complete = outcome.complete();
        assert_eq!(
            (complete.exit_code, complete.ended_by),
            (*exit, EndedBy::Exited),
            "{code}"
        );
        assert_eq!(complete.evidence.detail, None, "{code}");
        outcome.check_summaries();
    }
}

/// Each exec uses the state that the earlier ones have left.
const STATE: &[Case] = &[
    (
        "const x: number = 1; let y = 2, w; var z = 3; class A { #p = 4; get p() { return this.#p } }",
        "",
        "",
        0,
    ),
    (
        "console.log(x, y, z, w, new A().p, A.name)",
        "1 2 3 undefined 4 A\n",
        "",
        0,
    ),
    (
        "const x = 5; let y; console.log(x, y); var z",
        "5 undefined\n",
        "",
        0,
    ),
    ("console.log(z); globalThis.g = 6", "3\n", "", 0),
    (
        "import d, { seven as s } from './lib'; import * as all from './lib'; import fs from 'fs'",
        "",
        "",
        0,
    ),
    (
        "console.log(s, d, all.seven, typeof fs.existsSync, g)",
        "7 d 7 function 6\n",
        "",
        0,
    ),
    (
        "const { a, b: [c, ...rest], ...others } = { a: 1, b: [2, 3, 4], e: 5 }",
        "",
        "",
        0,
    ),
    (
        "console.log(a, c, rest, others)",
        "1 2 [ 3, 4 ] {\n  e: 5,\n}\n",
        "",
        0,
    ),
    (
        "console.log(early()); function early() { return later() }\nfunction later() { return 1 }",
        "1\n",
        "",
        0,
    ),
    ("function later() { return 2 }", "", "", 0),
    ("console.log(early())", "2\n", "", 0),
    (
        "const t = await new Promise<number>(r => setTimeout(r, 5, 8)); async function af() { return t }",
        "",
        "",
        0,
    ),
    (
        "console.log(await af())\nfunction* gen() { yield* [1, 2] }",
        "8\n",
        "",
        0,
    ),
    (
        "for (const i of gen()) console.log(i); enum E { A, B }; namespace N { export const n = 1 }",
        "1\n2\n",
        "",
        0,
    ),
    (
        "console.log(E.B, E[0], N.n); enum E2 { C }",
        "1 A 1\n",
        "",
        0,
    ),
    (
        "export const q = 1; export default function dflt() { return q }\nexport { q as r }; export * from './lib'; export type T = 1",
        "",
        "",
        0,
    ),
    (
        "console.log(dflt(), typeof module, typeof require('fs').existsSync)",
        "1 object function\n",
        "",
        0,
    ),
    ("{ let inner = 1; console.log(inner) }", "1\n", "", 0),
    (
        "const cast = <any>x; const generic = <T>(v: T) => v; console.log(generic(cast) satisfies number)",
        "5\n",
        "",
        0,
    ),
    (
        "import crypto from 'crypto'; import process from 'process'; const fetch = 1; console.log(typeof crypto.randomUUID(), fetch)",
        "string 1\n",
        "",
        0,
    ),
    (
        "outer: for (;;) { for (;;) break outer }\n'use strict'; this.viaThis = 9; console.log(viaThis) // end",
        "9\n",
        "",
        0,
    ),
    ("class P { accessor v = 1 }\nconst p = new P()", "", "", 0),
    (
        "class Q { accessor v = 2 }\nconsole.log(p.v, new Q().v)",
        "1 2\n",
        "",
        0,
    ),
    (
        "function dec(v: any, c: any) { return v }\n@dec class D { n = 1 }\nconsole.log(new D().n)",
        "1\n",
        "",
        0,
    ),
    (
        "let log = ''; { using r = { [Symbol.dispose]() { log += 'gone' } }; log += 'held ' }; console.log(log)",
        "held gone\n",
        "",
        0,
    ),
    (
        "using res = { [Symbol.dispose]() { console.log('disposed') } }; const beside = 5",
        "disposed\n",
        "",
        0,
    ),
    ("console.log(beside)", "5\n", "", 0),
    ("", "", "", 0),
    ("// nothing", "", "", 0),
];

#[test]
fn state_stays() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let directory = agent.directory.path();
    std::fs::write(
        directory.join("lib.ts"),
        "export const seven: number = 7; export default 'd'",
    )
    .unwrap();
    all(&mut client, STATE);
    let other = run_in(&mut client, "k", "console.log(typeof x, typeof A)", |_| {});
    assert_eq!(other.out(), "undefined undefined\n");
}

/// Each exec fails, and no state is lost.
const ERRORS: &[Case] = &[
    (
        "const kept = 1\n\n// a comment\nfunction f(a: string): never {\n  throw new TypeError(a as any)\n}",
        "",
        "",
        0,
    ),
    (
        "\nf('boo')",
        "",
        "4 | function f(a: string): never {\n5 |   throw new TypeError(a as any)\n            ^\nTypeError: boo\n      at f (exec-1.ts:5:9)\n      at exec-2.ts:2:2\n\nBun v",
        1,
    ),
    ("null.x", "", "1 | null.x\n        ^\nTypeError: ", 1),
    (
        "interface I {\n  a: number\n}\nawait 1\nconst o = {\n  a: 1,\n\n  b: missing }",
        "",
        "8 |   b: missing }\n",
        1,
    ),
    (
        "const late = 1\n  .toFixed()\n  .nope()",
        "",
        "at exec-5.ts:3:",
        1,
    ),
    (
        "const bad = ;",
        "",
        "1 | const bad = ;\n                ^\nerror: Unexpected ;\n    at exec-6.ts:1:13\n",
        1,
    ),
    (
        "const once = 1; once = 2",
        "",
        "Cannot assign to \"once\"",
        1,
    ),
    (
        "import './nope'",
        "",
        "error: Cannot find module './nope' from '",
        1,
    ),
    (
        "import nope from 'nope'",
        "",
        "Cannot find package 'nope'",
        1,
    ),
    ("throw { a: 1 }", "", "error\n{\n  a: 1,\n}\n", 1),
    ("throw 'text'", "", "error: text\n", 1),
    (
        "await Promise.reject(new Error('rejected'))",
        "",
        "error: rejected\n",
        1,
    ),
    (
        "throw new Error('outer', { cause: new Error('inner') })",
        "",
        "error: inner\n",
        1,
    ),
    (
        "Promise.reject(new Error('unhandled'))",
        "",
        "error: unhandled\n      at exec-14.ts:1:",
        1,
    ),
    (
        "setTimeout(() => { throw new Error('timer') }, 1); await Bun.sleep(60000)",
        "",
        "error: timer\n",
        1,
    ),
    (
        "process.on('unhandledRejection', e => console.log('mine', e)); Promise.reject(1); await Bun.sleep(20); process.removeAllListeners()",
        "mine 1\n",
        "",
        0,
    ),
    ("Promise.reject(2)", "", "error\n2\n", 1),
    ("console.log(kept, typeof once)", "1 undefined\n", "", 0),
];

#[test]
fn errors_show_the_programs_lines() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    all(&mut client, ERRORS);
    let shown = run(&mut client, "f('again')");
    assert!(!shown.err().contains("context.ts"), "{}", shown.err());
    assert!(!shown.err().contains("(()=>"), "{}", shown.err());
}

#[test]
fn exits_end_the_exec_and_keep_the_state() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    all(
        &mut client,
        &[
            ("const x = 1; process.exit(7); console.log('on')", "", "", 7),
            (
                "try { process.exit(3) } catch { console.log('caught') } finally { console.log('finally') }",
                "",
                "",
                3,
            ),
            (
                "await 1; try { process.exit(4) } catch { console.log('caught') }",
                "",
                "",
                4,
            ),
            (
                "setTimeout(() => process.exit(5), 1); await new Promise(() => {})",
                "",
                "",
                5,
            ),
            ("await Bun.sleep(1); process.exit()", "", "", 0),
            ("process.exitCode = 6", "", "", 6),
            ("process.exit(300)", "", "", 44),
            (
                "process.stdout.write('all of it'); process.exit(1)",
                "all of it",
                "",
                1,
            ),
            (
                "setTimeout(() => process.exit(8), 20); console.log(x)",
                "1\n",
                "",
                8,
            ),
            (
                "const t = setInterval(() => { clearInterval(t); process.exit(9) }, 20); console.log(x)",
                "1\n",
                "",
                0,
            ),
            ("await Bun.sleep(60000)", "", "", 9),
            ("console.log(x)", "1\n", "", 0),
        ],
    );
}

#[test]
fn code_of_maximum_size() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let mut code = String::new();
    let mut lines = 0;
    while code.len() < 2_000_000 {
        code += &format!("const v{lines}: number = {lines} + 'x'.length\n");
        lines += 1;
    }
    code += "console.log(v1)";
    let outcome = run(&mut client, &code);
    assert_eq!(outcome.out(), "2\n", "{}", outcome.err());
    assert_eq!(run(&mut client, "console.log(v2)").out(), "3\n");
    let array = format!(
        "const big = [{}]; console.log(big.length)",
        "1,".repeat(900_000)
    );
    assert_eq!(run(&mut client, &array).out(), "900000\n");
}

#[test]
fn javascript_context_uses_the_prepared_interpreter() {
    let Some(agent) = agent() else { return };
    let mut client = agent.connect();
    let prepare = |client: &mut Client| {
        let outcome = run_with(client, JAVASCRIPT, "console.log(process.pid)", |request| {
            request.prepare = true
        });
        outcome.out().trim().to_string()
    };
    let pid = prepare(&mut client);
    let outcome = run(
        &mut client,
        "console.log(process.pid, Math.random() === Math.random())",
    );
    assert_eq!(outcome.out(), format!("{pid} false\n"), "{}", outcome.err());
    let failed = run(&mut client, "process.exit(3)");
    assert_eq!(failed.complete().exit_code, 3);
    let one = run(&mut client, "console.log(Math.random())")
        .out()
        .to_string();
    let two = run_in(&mut client, "k", "console.log(Math.random())", |_| {});
    assert_ne!(one, two.out());
    assert_eq!(agent.children().len(), 2);
}
