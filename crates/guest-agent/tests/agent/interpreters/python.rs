//! Python: displayed values, `await`, input, and the failures that contexts survive.

use fumehood_protocol::{ContextName, EndedBy, Exec, GuestPath, Language, Request};
use serde_json::{Value, json};

use crate::interpreters::prepared::run_with;
use crate::operations::input::stdin;
use crate::support::{Agent, Client, Outcome, exec};

fn run(client: &mut Client, code: &str, change: impl FnOnce(&mut Exec)) -> Outcome {
    run_with(client, Language::Python, code, |request| {
        request.context = Some(ContextName::new("c"));
        change(request);
    })
}

fn plain(client: &mut Client, code: &str) -> Outcome {
    run(client, code, |_| {})
}

pub fn shown(client: &mut Client, code: &str) -> Outcome {
    run(client, code, |request| request.display = true)
}

pub fn text(value: &Value) -> &str {
    value["text/plain"].as_str().unwrap()
}

pub fn texts(outcome: &Outcome) -> Vec<String> {
    let values = outcome.values();
    values.iter().map(|value| text(value).to_string()).collect()
}

#[test]
fn last_value_is_displayed() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, values) in [
        ("x = 20\nx + 1", vec!["21"]),
        ("_ * 2", vec!["42"]),
        ("None", vec![]),
        ("x = 3", vec![]),
        ("'text'", vec!["'text'"]),
        (
            "display(1, 'é\\n'); print('between'); display(None)\n2",
            vec!["1", "'é\\n'", "None", "2"],
        ),
        ("if x: x", vec![]),
        ("(y := 5)", vec!["5"]),
        (
            "'\\ud800'.encode('utf-8', 'surrogatepass').decode('utf-8', 'surrogatepass')[0:1]",
            vec!["'\\ud800'"],
        ),
    ] {
        let outcome = shown(&mut client, code);
        assert_eq!(texts(&outcome), values, "{code}: {}", outcome.err());
        assert_eq!(outcome.complete().exit_code, 0, "{code}");
        outcome.check_summaries();
    }
    assert_eq!(
        plain(&mut client, "x + 1\nprint(y)").values(),
        Vec::<Value>::new()
    );
    let gone = plain(&mut client, "display(1)");
    assert!(gone.err().contains("'display' is not defined"));
    let once = run_with(
        &mut client,
        Language::Python,
        "import sys\nprint(1)\nsys.argv == [__file__]",
        |r| {
            r.display = true;
        },
    );
    assert_eq!(
        (once.out(), texts(&once)),
        ("1\n", vec!["True".to_string()])
    );
}

#[test]
fn values_have_all_representations_of_their_type() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let class = "
class Rich:
    def __repr__(self): return 'rich'
    def _repr_html_(self): return '<b>'
    def _repr_markdown_(self): return 5
    def _repr_svg_(self): return b'bytes'
    def _repr_latex_(self): 1 / 0
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_jpeg_(self): return b'j', {'width': 1}
    def _repr_pdf_(self): return None
    def _repr_json_(self): return {'a': [1, None, 'é']}
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {'text/html': '<i>', 'text/plain': 'no', 5: '6', 'x/y': object(), 'a/b+json': float('nan')}
Rich()";
    let values = shown(&mut client, class).values();
    let expected = json!({
        "text/plain": "rich", "text/html": "<i>", "image/png": "iVBORw==", "image/jpeg": "ag==",
        "application/json": {"a": [1, null, "é"]},
    });
    assert_eq!(values, [expected]);
    let values = shown(&mut client, "Rich").values();
    assert_eq!(values, [json!({"text/plain": "<class '__main__.Rich'>"})]);
    let failing = "class Bad:\n    def __repr__(self): 1 / 0\nBad()";
    let outcome = shown(&mut client, failing);
    assert!(
        outcome.err().contains("line 2, in __repr__"),
        "{}",
        outcome.err()
    );
    assert!(!outcome.err().contains("display.py"), "{}", outcome.err());
    assert_eq!(outcome.complete().exit_code, 1);
    assert_eq!(outcome.values(), Vec::<Value>::new());
}

#[test]
fn large_values_are_complete_or_cut() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let outcome = shown(&mut client, "print('first'); 'é' * (2 << 20)");
    assert_eq!(text(&outcome.values()[0]).chars().count(), (2 << 20) + 2);
    let outcome = shown(&mut client, "'é' * (5 << 20)");
    let values = outcome.values();
    assert_eq!(text(&values[0]).len(), (64 << 10) - 1);
    assert!(outcome.err().contains("8388608 bytes is shown as text"));
    outcome.check_summaries();
    // The value is not read and its exec is interrupted: the next value is still complete.
    let mut request = exec(Some(1), Language::Python, "display('x' * (1 << 20))");
    request.context = Some(ContextName::new("c"));
    request.display = true;
    request.credit = Some(1000);
    let mut careful = agent.hello(&["credit", "cancel"]);
    careful.send(&Request::Exec(request));
    let mut outcome = Outcome::default();
    let (response, bytes) = careful.message();
    outcome.add(response, bytes);
    careful.cancel(1);
    careful.credit(1, 16 << 20);
    careful.collect_rest(&mut outcome);
    assert_eq!(text(&outcome.values()[0]).len(), (1 << 20) + 2);
    assert_eq!(texts(&shown(&mut client, "7")), ["7"]);
}

#[test]
fn errors_show_the_right_line() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, parts) in [
        (
            "x = 1\n\nx.y",
            vec!["exec-1.py\", line 3, in <module>\n    x.y\n"],
        ),
        (
            "f = 1\nprint(1,\n  2 / 0)",
            vec!["exec-2.py\", line 3", "    2 / 0)\n     ~~^~~"],
        ),
        (
            "x = 1\nx = (",
            vec!["exec-3.py\", line 2\n    x = (\n        ^\nSyntaxError"],
        ),
        (
            "x = 1\nreturn 5",
            vec!["exec-4.py\", line 2\n    return 5\n    ^^^^^^^^\nSyntaxError"],
        ),
        ("\nx is 1", vec!["exec-5.py:2: SyntaxWarning"]),
        (
            "import warnings\nwarnings.warn('told')",
            vec!["exec-6.py:2: UserWarning: told\n  warnings.warn('told')"],
        ),
        (
            "async def f(): 1 / 0\n\nawait f()",
            vec![
                "Traceback (most recent call last):\n  File \"exec-7.py\", line 3, in <module>\n    await f()\n",
                "line 1, in f\n    async def f(): 1 / 0\n",
            ],
        ),
    ] {
        let outcome = shown(&mut client, code);
        for part in parts {
            assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
        }
    }
}

#[test]
fn top_level_await() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=3000"]);
    let mut client = agent.connect();
    plain(&mut client, "x = 1");
    let loaded = plain(&mut client, "import sys; print('asyncio' in sys.modules)");
    assert_eq!(loaded.out(), "False\n");
    let code = "import asyncio\nseen = []\nasync def count():\n    while True:\n        seen.append(1)\n        await asyncio.sleep(0.001)\nasync def answer(): return 42\ntask = asyncio.create_task(count())\nawait answer()";
    assert_eq!(texts(&shown(&mut client, code)), ["42"]);
    let outcome = plain(
        &mut client,
        "before = len(seen)\nawait asyncio.sleep(0.1)\nprint(len(seen) > before, task.done())",
    );
    assert_eq!(outcome.out(), "True False\n", "{}", outcome.err());
    let outcome = run(&mut client, "x = 2\nawait asyncio.sleep(60)", |r| {
        r.timeout = Some(1)
    });
    assert_eq!(outcome.complete().ended_by, EndedBy::Timeout);
    assert!(
        outcome.err().contains("line 2, in <module>"),
        "{}",
        outcome.err()
    );
    assert!(
        outcome.err().ends_with("\nKeyboardInterrupt\n"),
        "{}",
        outcome.err()
    );
    assert!(!outcome.err().contains("runners.py"), "{}", outcome.err());
    for (code, out) in [
        ("print(x, await answer(), asyncio.run(answer()))", ""),
        ("print(x, await answer(), task.done())", "2 42 False\n"),
        ("print(asyncio.run(answer()))", "42\n"),
        ("print(await answer())", "42\n"),
        (
            "from contextvars import ContextVar\nv = ContextVar('v')\nv.set(1)",
            "",
        ),
        ("await answer()\nprint(v.get())\nv.set(2)", "1\n"),
        ("print(v.get())", "2\n"),
    ] {
        let outcome = plain(&mut client, code);
        assert_eq!(outcome.out(), out, "{code}: {}", outcome.err());
    }
    let outcome = client.python("import asyncio\nawait asyncio.sleep(0)");
    assert!(
        outcome.err().contains("'await' outside function"),
        "{}",
        outcome.err()
    );
    let code = "import asyncio, atexit\natexit.register(print, 'atexit')\nasync def f():\n    try: await asyncio.sleep(60)\n    finally: print('finally')\nt = asyncio.create_task(f())\nawait asyncio.sleep(0)\n5";
    let outcome = run_with(&mut client, Language::Python, code, |r| r.display = true);
    assert_eq!(
        (outcome.out(), texts(&outcome)),
        ("finally\natexit\n", vec!["5".to_string()])
    );
}

#[test]
fn each_exec_has_its_own_input() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    let mut fed = |code: &str, input: &str| {
        let mut request = exec(Some(1), Language::Python, code);
        request.context = Some(ContextName::new("c"));
        request.stdin = true;
        client.send(&Request::Exec(request));
        stdin(&mut client, 1, input.as_bytes(), true);
        client.outcome().out().to_string()
    };
    assert_eq!(
        fed(
            "import sys\nprint(input('name? '), sys.stdin.readline())",
            "é\nb\nc\nd\n"
        ),
        "name? é b\n\n"
    );
    assert_eq!(fed("print(sys.stdin.read())", "new"), "new\n");
    assert_eq!(fed("sys.stdin.close()", "x\n"), "");
    assert_eq!(
        fed("print(sys.stdin.readlines())", "y\nz"),
        "['y\\n', 'z']\n"
    );
    let outcome = plain(&mut client, "print(repr(sys.stdin.read()))\ninput()");
    assert_eq!(outcome.out(), "''\n");
    assert!(outcome.err().contains("EOFError"), "{}", outcome.err());
}

#[test]
fn working_directory_lasts_for_one_exec() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let path = agent.directory.path();
    std::fs::create_dir(path.join("sub")).unwrap();
    std::fs::write(path.join("sub/helper.py"), "print('helper')").unwrap();
    let here = path.canonicalize().unwrap().display().to_string();
    let sub = format!("{here}/sub");
    let in_directory = |directory: &str| {
        let cwd = Some(GuestPath::new(directory));
        move |request: &mut Exec| request.cwd = cwd
    };
    let cwd = "import os\nprint(os.getcwd())";
    assert_eq!(
        run(&mut client, cwd, in_directory(&sub)).out(),
        format!("{sub}\n")
    );
    assert_eq!(plain(&mut client, cwd).out(), format!("{here}\n"));
    run(&mut client, "os.chdir('/')", in_directory(&sub));
    assert_eq!(
        plain(&mut client, "print(os.getcwd())\nos.chdir('/usr')").out(),
        format!("{here}\n")
    );
    assert_eq!(plain(&mut client, cwd).out(), "/usr\n");
    let place = "import os, sys, helper\nprint(os.getcwd() == sys.path[1], __file__)";
    for (prepare, display) in [(false, false), (false, true), (true, false), (true, true)] {
        if prepare {
            run_with(&mut client, Language::Python, "import sys", |r| {
                r.prepare = true
            });
        }
        let outcome = run_with(&mut client, Language::Python, place, |request| {
            request.cwd = Some(GuestPath::new(&sub));
            request.display = display;
        });
        assert_eq!(
            outcome.out(),
            format!("helper\nTrue {here}/main.py\n"),
            "{}",
            outcome.err()
        );
    }
    assert_eq!(
        run(&mut client, cwd, in_directory("sub")).out(),
        format!("{sub}\n")
    );
    // The agent can open the directory, but the interpreter cannot.
    let gone = "/proc/self/cwd/sub";
    let said = "cannot enter the working directory /proc/self/cwd/sub: No such file or directory\n";
    let missing = run(&mut client, "print('runs')", in_directory(gone));
    assert_eq!((missing.out(), missing.err()), ("", said));
    assert_eq!(missing.complete().exit_code, 1);
    for display in [false, true] {
        run_with(
            &mut client,
            Language::Python,
            "import os\nos.chdir('/')",
            |r| {
                r.prepare = true;
            },
        );
        let missing = run_with(&mut client, Language::Python, "print('runs')", |request| {
            request.cwd = Some(GuestPath::new(gone));
            request.display = display;
        });
        assert_eq!((missing.out(), missing.err()), ("", said));
        assert_eq!(missing.complete().exit_code, 1);
    }
    assert_eq!(plain(&mut client, cwd).out(), "/usr\n");
}

#[test]
fn state_survives_hostile_programs() {
    let agent = Agent::open();
    let mut client = agent.connect();
    plain(&mut client, "import os, signal, sys, time\nx = 1");
    for (code, exit) in [
        ("sys.stdout.close(); sys.stderr.close()", 0),
        ("sys.stdout = sys.stderr = None", 0),
        ("del sys.stdout, sys.stderr", 0),
        ("sys.stderr.close()\n1 / 0", 1),
        ("def deep(): deep()\ndeep()", 1),
        ("'x' * (1 << 62)", 1),
        (
            "class Mute:\n    def __str__(self): 1 / 0\nsys.exit(Mute())",
            1,
        ),
        ("sys.excepthook = lambda *_: sys.exit(3)\n1 / 0", 3),
        ("sys.excepthook = sys.__excepthook__", 0),
        ("sys.setrecursionlimit(40)\n1 / 0", 1),
        ("sys.setrecursionlimit(1000)", 0),
        ("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", 130),
        ("raise BaseException", 1),
        ("del sys.modules['__main__']", 0),
        // It arrives while no program is running.
        (
            "def ring(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)",
            0,
        ),
        ("time.sleep(0)", 0),
    ] {
        let outcome = plain(&mut client, code);
        assert_eq!(
            outcome.complete().exit_code,
            exit,
            "{code}: {}",
            outcome.err()
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
        let next = plain(&mut client, "print(x)\nprint('e', file=sys.stderr)");
        assert_eq!((next.out(), next.err()), ("1\n", "e\n"), "{code}");
    }
    let pid = plain(&mut client, "print(os.getpid())")
        .out()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    for _ in 0..300 {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
    // An interrupt that is still pending when the next exec arrives would hit that one.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(
        plain(&mut client, "print(x)").out(),
        "1\n",
        "interrupts between two execs"
    );
}

#[test]
fn multiprocessing_works() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "
import concurrent.futures, math, multiprocessing, threading
def square(x): return x * x
if __name__ == '__main__':
    for method in ('fork', 'spawn', 'forkserver'):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            print(method, pool.map(math.sqrt, [4, 9]))
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            print(method, list(pool.map(math.sqrt, [16])))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        print(multiprocessing.get_context('fork').Pool(2).map(square, [3]), list(pool.map(square, [4])))";
    let out = "fork [2.0, 3.0]\nfork [4.0]\nspawn [2.0, 3.0]\nspawn [4.0]\nforkserver [2.0, 3.0]\nforkserver [4.0]\n[9] [16]\n";
    for outcome in [
        plain(&mut client, code),
        shown(&mut client, code),
        client.python(code),
    ] {
        assert_eq!((outcome.out(), outcome.err()), (out, ""));
    }
}
