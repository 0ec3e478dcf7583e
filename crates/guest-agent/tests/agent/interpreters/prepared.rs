//! Prepared interpreters, and the preparation itself.

use fumehood_protocol::{EndedBy, ErrorType, Exec, Language, Request};

use crate::support::{Agent, Client, Outcome, bun, exec, wait_until};

/// Runs code with a request that `change` has modified.
pub fn run_with(
    client: &mut Client,
    language: Language,
    code: &str,
    change: impl FnOnce(&mut Exec),
) -> Outcome {
    let mut request = exec(None, language, code);
    change(&mut request);
    client.send(&Request::Exec(request));
    client.outcome()
}

pub fn prepare(client: &mut Client, language: Language, code: &str) -> Outcome {
    run_with(client, language, code, |request| request.prepare = true)
}

fn prepared(client: &mut Client, language: Language, code: &str) {
    let outcome = prepare(client, language, code);
    assert_eq!(outcome.complete().exit_code, 0, "{outcome:?}");
}

fn with_vars<const N: usize>(
    client: &mut Client,
    language: Language,
    code: &str,
    vars: [(&str, &str); N],
) -> Outcome {
    run_with(client, language, code, |request| {
        request.env_vars = vars.into_iter().collect();
    })
}

#[test]
fn program_runs_in_the_prepared_interpreter() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import wave, os\nsecret = 1\nprint('prepared', os.getpid())";
    let outcome = prepare(&mut client, Language::Python, code);
    let pid = outcome
        .out()
        .strip_prefix("prepared ")
        .unwrap()
        .trim()
        .to_string();
    assert_eq!(outcome.complete().exit_code, 0);
    outcome.check_summaries();
    let next = client.python(
        "import sys, os\nprint(os.getpid(), 'wave' in sys.modules, 'secret' in globals(), __name__, __file__ == os.getcwd() + '/main.py', sys.argv == [__file__])",
    );
    assert_eq!(next.out(), format!("{pid} True False __main__ True True\n"));
    assert!(next.complete().spawn_ms.is_some());
    let after = client.python("import sys\nprint('wave' in sys.modules)");
    assert_eq!(after.out(), "False\n", "nobody starts another by himself");
    wait_until("nothing is left", || agent.children().is_empty());
}

#[test]
fn failed_preparation_is_reported_and_the_interpreter_stays() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let pid = prepare(
        &mut client,
        Language::Python,
        "import os; print(os.getpid())",
    );
    for (code, exit, part) in [
        ("def f():\n    1 / 0\nf()", 1, "    1 / 0\n"),
        ("x = (", 1, "SyntaxError"),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ] {
        let outcome = prepare(&mut client, Language::Python, code);
        assert_eq!(outcome.complete().exit_code, exit, "{code}");
        assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
    }
    let same = client.python("import os; print(os.getpid())");
    assert_eq!(same.out(), pid.out());
    let dead = prepare(&mut client, Language::Python, "import os; os._exit(3)");
    assert_eq!(dead.complete().exit_code, 3);
    assert_eq!(client.python("print('next')").out(), "next\n");
}

#[test]
fn prepared_python_behaves_like_any_other() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, out, err, exit) in [
        (
            "import atexit, threading, time\natexit.register(print, 'atexit')\nthreading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nraise ValueError('main')",
            "thread\natexit\n",
            "/main.py\", line 4, in <module>\n    raise ValueError('main')\nValueError: main\n",
            1,
        ),
        (
            "import inspect\ndef f(): pass\nprint(inspect.getsource(f), end='')",
            "def f(): pass\n",
            "",
            0,
        ),
        ("import os\nos.fstat(3)", "", "Bad file descriptor", 1),
        (
            "import os\nif os.fork() == 0: print('child')\nelse: print(os.waitstatus_to_exitcode(os.wait()[1]))",
            "child\n0\n",
            "",
            0,
        ),
        (
            "import multiprocessing\ndef square(x): return x * x\nprint(multiprocessing.get_context('fork').Pool(2).map(square, range(4)))",
            "[0, 1, 4, 9]\n",
            "",
            0,
        ),
    ] {
        prepared(
            &mut client,
            Language::Python,
            "import traceback, linecache, inspect\nprint(1)\nprint(2)\nprint(3)",
        );
        let outcome = client.python(code);
        assert_eq!(outcome.out(), out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert_eq!(outcome.complete().exit_code, exit, "{code}");
    }
}

#[test]
fn fresh_interpreter_on_request() {
    let agent = Agent::open();
    let mut client = agent.connect();
    prepared(&mut client, Language::Python, "import wave");
    let is_loaded = "import sys; print('wave' in sys.modules)";
    let fresh = run_with(&mut client, Language::Python, is_loaded, |r| r.fresh = true);
    assert_eq!(fresh.out(), "False\n");
    assert_eq!(client.python(is_loaded).out(), "True\n", "it still waited");
}

#[test]
fn variables_that_act_at_start_get_a_fresh_interpreter() {
    let agent = Agent::open();
    let mut client = agent.connect();
    prepared(&mut client, Language::Python, "import wave");
    let code = "import os, sys\nprint('wave' in sys.modules, os.environ.get('A'), hash('x') == hash('x'), sys.flags.hash_randomization)";
    let vars = [("A", "b"), ("PYTHONHASHSEED", "0")];
    let outcome = with_vars(&mut client, Language::Python, code, vars);
    assert_eq!(outcome.out(), "False b True 0\n");
    let outcome = with_vars(&mut client, Language::Python, code, [("A", "b=\n\"é")]);
    assert_eq!(outcome.out(), "True b=\n\"é True 1\n");
    let refused = run_with(&mut client, Language::Python, "1", |request| {
        request.prepare = true;
        request.env_vars = [("LC_ALL", "C")].into_iter().collect();
    });
    let error = refused.error.unwrap();
    assert_eq!(error.error_type, ErrorType::EnvVarError);
    assert!(error.message.contains("LC_ALL"), "{}", error.message);
}

#[test]
fn variables_of_a_preparation_do_not_stay() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (language, code, later) in [
        (
            Language::Python,
            "import os; print(os.environ['A'])",
            "import os, time; print(os.environ.get('A'), time.tzname[0])",
        ),
        (Language::Shell, "echo $A", "echo ${A-None} $(date +%Z)"),
    ] {
        let outcome = run_with(&mut client, language, code, |request| {
            request.prepare = true;
            request.env_vars = [("A", "b"), ("TZ", "Asia/Tokyo")].into_iter().collect();
        });
        assert_eq!(outcome.out(), "b\n", "{language}: {}", outcome.err());
        assert_eq!(
            client.run(language, later).out(),
            "None UTC\n",
            "{language}"
        );
    }
}

#[test]
fn time_zone_can_be_set_later() {
    let agent = Agent::open();
    let mut client = agent.connect();
    prepared(
        &mut client,
        Language::Python,
        "import time; time.localtime()",
    );
    let code = "import time; print(time.tzname[0])";
    let outcome = with_vars(&mut client, Language::Python, code, [("TZ", "XYZ-9")]);
    assert_eq!(outcome.out(), "XYZ\n");
}

#[test]
fn programs_after_the_same_preparation_draw_different_numbers() {
    let agent = Agent::open();
    let mut client = agent.connect();
    // Two guests restored from one state start with the same generator state; the fixed seed simulates that.
    let mut draw = |code: &str| {
        prepared(
            &mut client,
            Language::Python,
            "import random, tempfile, uuid; random.seed(1); tempfile._name_sequence = None",
        );
        client.python(code).out().to_string()
    };
    let code = "import random; print(random.random())";
    let (one, other) = (draw(code), draw(code));
    assert_ne!(one, other);
    assert_ne!(one, "0.13436424411240122\n", "what a seed of 1 gives");
    assert_eq!(
        draw("import random; random.seed(1); print(random.random())"),
        "0.13436424411240122\n"
    );
}

#[test]
fn two_preparations_at_once_leave_one_interpreter() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    for id in 1..=2 {
        let mut request = exec(Some(id), Language::Python, "import time; time.sleep(0.2)");
        request.prepare = true;
        client.send(&Request::Exec(request));
    }
    for _ in 0..2 {
        assert_eq!(client.outcome().complete().exit_code, 0);
    }
    wait_until("one is left", || agent.children().len() == 1);
}

#[test]
fn prepared_interpreter_uses_no_cpu_time_and_dies_with_its_agent() {
    let mut agent = Agent::open();
    let mut client = agent.connect();
    prepared(&mut client, Language::Python, "pass");
    prepared(&mut client, Language::Shell, "true");
    let pids = agent.children();
    assert_eq!(pids.len(), 2);
    let time = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let rest = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<&str> = rest.split(' ').collect();
        (
            fields[0].to_string(),
            fields[11].to_string(),
            fields[12].to_string(),
        )
    };
    let all = [pids.clone(), vec![agent.pid()]].concat();
    wait_until("all sleep", || all.iter().all(|pid| time(pid).0 == "S"));
    let before: Vec<_> = all.iter().map(time).collect();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(before, all.iter().map(time).collect::<Vec<_>>());
    agent.terminate();
    wait_until("they die", || {
        pids.iter().all(|pid| !crate::support::is_alive(*pid))
    });
}

#[test]
fn dead_prepared_interpreter_is_not_used() {
    let agent = Agent::open();
    let mut client = agent.connect();
    prepared(&mut client, Language::Python, "pass");
    let pid = agent.children()[0];
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_until("it is reaped", || agent.children().is_empty());
    assert_eq!(client.python("print('next')").out(), "next\n");
}

#[test]
fn bash_can_be_prepared() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let outcome = prepare(&mut client, Language::Shell, "x=1; echo prepared; exit 3");
        assert_eq!(
            (outcome.out(), outcome.complete().exit_code),
            ("prepared\n", 3)
        );
        let code = "echo $0 $# $LINENO ${x-unset} ${MAPFILE-unset} ${__c-unset}$__w; ls /proc/self/fd | wc -l\ntrap\nnosuch\necho $RANDOM$RANDOM$RANDOM $A; trap 'echo bye' EXIT; exit 5";
        let outcome = with_vars(&mut client, Language::Shell, code, [("A", "b 'c'")]);
        assert_eq!(
            outcome.err(),
            "main.sh: line 3: nosuch: command not found\n"
        );
        assert_eq!(outcome.complete().exit_code, 5);
        let lines: Vec<String> = outcome.out().lines().map(Into::into).collect();
        assert_eq!(lines[..2], ["main.sh 0 1 unset unset unset", "4"]);
        assert!(
            lines[2].ends_with(" b 'c'") && lines[3] == "bye",
            "{lines:?}"
        );
        seen.push(lines[2].clone());
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn javascript_can_be_prepared() {
    if bun().is_none() {
        eprintln!("skipped: no bun; set FUMEHOOD_TEST_BUN to one");
        return;
    }
    let agent = Agent::open();
    let mut client = agent.connect();
    let prepare = |client: &mut Client| {
        let code = "const hidden: number = 1; const fs = await import('node:fs'); console.log('prepared', typeof fs.readSync)";
        let outcome = prepare(client, Language::Javascript, code);
        assert_eq!(outcome.out(), "prepared function\n", "{}", outcome.err());
    };
    prepare(&mut client);
    prepare(&mut client);
    std::fs::write(
        agent.directory.path().join("lib.ts"),
        "export const seven: number = 7;",
    )
    .unwrap();
    let code = "import { seven } from './lib'; import { execSync } from 'node:child_process';
const n: number = await Promise.resolve(seven);
console.log(n, import.meta.main, import.meta.file, process.argv.length, process.argv[1] === Bun.main, typeof hidden);
console.log(process.env.A, execSync('echo $A').toString().trim(), Bun.spawnSync(['printenv', 'A']).stdout.toString().trim(), (await Bun.$`printenv A`.text()).trim());
console.log(Math.random.name, Object.keys(Math).length, Math.random() < 1);
process.exit(7);";
    let outcome = with_vars(&mut client, Language::Javascript, code, [("A", "b")]);
    assert_eq!(
        outcome.out(),
        "7 true main.ts 2 true undefined\nb b b b\nrandom 0 true\n",
        "{}",
        outcome.err()
    );
    assert_eq!((outcome.err(), outcome.complete().exit_code), ("", 7));
    assert!(outcome.complete().spawn_ms.is_some());
    for (code, part) in [
        (
            "\nfunction f(): never { throw new Error('boom') }\nf()",
            "main.ts:2:",
        ),
        (
            "\nfunction f(): never { throw new Error('boom') }\nf()",
            "2 | function f()",
        ),
        ("Promise.reject(new Error('later'))", "error: later"),
        ("const x = ;", "main.ts:1:"),
    ] {
        prepare(&mut client);
        let outcome = client.run(Language::Javascript, code);
        assert_eq!(outcome.complete().exit_code, 1, "{code}");
        assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
    }
    let mut draw = || {
        prepare(&mut client);
        client
            .run(Language::Javascript, "console.log(Math.random())")
            .out()
            .to_string()
    };
    assert_ne!(draw(), draw());
    let files = std::fs::read_dir(agent.directory.path()).unwrap().count();
    assert_eq!(files, 1, "main.ts is gone");
}

/// Exit handlers run at the end of every program, even if the interpreter itself continues.
#[test]
fn prepared_python_runs_exit_handlers() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=3000"]);
    let mut client = agent.connect();
    let helper = "f = open('out', 'w')\nf.write('written')\ndef g(): pass\nclass H:\n    def __del__(self): print('del', NAME)\nNAME = 'helper'\nh = H()";
    std::fs::write(agent.directory.path().join("helper.py"), helper).unwrap();
    let out = agent.directory.path().join("out");
    for (code, stdout, exit) in [
        (
            "import os\nclass T:\n    def __del__(self): print('del', os.getpid() > 0, X)\nt = T()\nX = 5",
            "del True 5\n",
            0,
        ),
        (
            "def g():\n    try: yield\n    finally: print('finally')\nx = g()\nnext(x)",
            "finally\n",
            0,
        ),
        (
            "f = open('out', 'w')\nf.write('written')\ndef g(): pass",
            "",
            0,
        ),
        ("import helper", "del helper\n", 0),
        ("import sys\nsys.stdout.close()", "", 0),
        (
            "import sys\nclass Tee:\n    def __init__(self): self.out = sys.stdout\n    def write(self, text): self.out.write(text)\n    def flush(self): pass\nsys.stdout = Tee()\nprint('tee', end='')",
            "tee",
            0,
        ),
        (
            "import atexit\natexit.register(print, 'atexit')\natexit.register(lambda: 1 / 0)\nraise SystemExit(9)",
            "atexit\n",
            9,
        ),
        (
            "import os, sys\nif os.fork() == 0: print('child'); sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
            "child\n3\n",
            0,
        ),
    ] {
        for prepared in [false, true] {
            if prepared {
                prepare(&mut client, Language::Python, "pass");
            }
            let outcome = client.python(code);
            assert_eq!(
                outcome.out(),
                stdout,
                "{code} ({prepared}): {}",
                outcome.err()
            );
            assert_eq!(outcome.complete().exit_code, exit, "{code} ({prepared})");
            if code.contains("written") || code.contains("helper") {
                assert_eq!(
                    std::fs::read_to_string(&out).unwrap(),
                    "written",
                    "{code} ({prepared})"
                );
                std::fs::remove_file(&out).unwrap();
            }
        }
    }
    let thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()";
    let outcome = run_with(&mut client, Language::Python, thread, |r| {
        r.timeout = Some(1)
    });
    assert_eq!(outcome.complete().ended_by, EndedBy::Timeout);
    assert_eq!(
        outcome.complete().evidence.signal,
        None,
        "an interrupt ends the wait for threads"
    );
}
