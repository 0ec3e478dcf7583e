//! The environment in which programs run.

use fumehood_protocol::{ContextName, Language, Request};

use crate::interpreters::prepared::run_with;
use crate::support::{Agent, bun, exec};

#[test]
fn python_is_main() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "from __future__ import annotations
import sys, os, pickle, __main__
class A: pass
assert __name__ == '__main__' and __main__.A is A
assert sys.argv == [os.getcwd() + '/main.py'] and sys.path[0] == os.getcwd()
assert isinstance(pickle.loads(pickle.dumps(A())), A)
assert 'SOURCE' not in globals() and __file__ == sys.argv[0] and os.path.samefile(__file__, 'main.py')
def f(x: Undefined): pass
import inspect
print(inspect.getsource(A), end='')
print(sys.stdin.read() == '', os.isatty(0))";
    let outcome = client.python(code);
    assert_eq!(
        (outcome.out(), outcome.err()),
        ("class A: pass\nTrue False\n", "")
    );
}

#[test]
fn python_tracebacks_show_only_the_programs_lines() {
    let agent = Agent::open();
    let outcome = agent
        .connect()
        .python("def f(x):\n    return 1 / x\n\nf(0)");
    let err = outcome.err();
    let lines: Vec<&str> = err
        .lines()
        .filter(|line| !line.trim_start().starts_with(['^', '~']))
        .collect();
    let file = agent.directory.path().join("main.py");
    let file = file.display();
    let expected = [
        "Traceback (most recent call last):",
        &format!("  File \"{file}\", line 4, in <module>"),
        "    f(0)",
        &format!("  File \"{file}\", line 2, in f"),
        "    return 1 / x",
        "ZeroDivisionError: division by zero",
    ];
    assert_eq!(lines, expected, "{err}");
    assert_eq!(outcome.complete().exit_code, 1);
}

#[test]
fn python_ignores_a_file_with_the_programs_name() {
    let agent = Agent::open();
    std::fs::write(agent.directory.path().join("main.py"), "wrong = 1\n").unwrap();
    let outcome = agent.connect().python("raise ValueError('right')");
    assert!(
        outcome.err().contains("    raise ValueError('right')"),
        "{}",
        outcome.err()
    );
}

#[test]
fn python_exits_like_plain_python() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import atexit, threading, time
atexit.register(print, 'atexit')
def work():
    time.sleep(0.1)
    print('thread')
threading.Thread(target=work).start()
raise ValueError('main')";
    let outcome = client.python(code);
    assert_eq!(
        (outcome.out(), outcome.complete().exit_code),
        ("thread\natexit\n", 1)
    );
    assert!(outcome.err().ends_with("ValueError: main\n"));
    let hook = client.python(
        "import sys\nsys.excepthook = lambda kind, error, trace: print('hook', kind.__name__)\n1/0",
    );
    assert_eq!(
        (hook.out(), hook.err(), hook.complete().exit_code),
        ("hook ZeroDivisionError\n", "", 1)
    );
    let broken = client.python("import sys\nsys.excepthook = lambda *a: nothing\n1/0");
    assert!(
        broken.err().starts_with("Error in sys.excepthook:"),
        "{}",
        broken.err()
    );
    assert!(
        broken.err().contains("ZeroDivisionError"),
        "{}",
        broken.err()
    );
}

#[test]
fn python_children_inherit_no_agent_descriptors() {
    let agent = Agent::open();
    // Taken before the pool exists, whose pipes may stay open for a moment.
    let code = "import multiprocessing, os, subprocess
try: os.fstat(3)
except OSError: print('closed')
def square(x): return x * x
print(multiprocessing.get_context('fork').Pool(2).map(square, range(4)))
print(sorted(os.listdir('/proc/self/fd'))[:3])
print(subprocess.run('echo $(ls /proc/self/fd)', shell=True, capture_output=True, text=True).stdout.split()[:3])";
    let outcome = agent
        .connect()
        .python(&code.replace("print(sorted(os.listdir('/proc/self/fd'))[:3])\n", ""));
    assert_eq!(
        outcome.out(),
        "closed\n[0, 1, 4, 9]\n['0', '1', '2']\n",
        "{}",
        outcome.err()
    );
}

#[test]
fn environment_is_complete_and_private() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let mut request = exec(
        None,
        Language::Python,
        "import os\nprint(open('/proc/self/environ').read().count('GREETING=h\\u00e9 \"llo\\n'))\nprint(os.environ['GREETING'], end='')\nprint(os.environ['LANG'], 'FUMEHOOD' in ''.join(os.environ))\n1/0",
    );
    request.env_vars = [("GREETING", "hé \"llo\n"), ("LANG", "C")]
        .into_iter()
        .collect();
    client.send(&Request::Exec(request));
    let outcome = client.outcome();
    assert_eq!(outcome.out(), "1\nhé \"llo\nC False\n");
    assert!(
        outcome.err().contains("line 5"),
        "lines are not shifted: {}",
        outcome.err()
    );
    assert_eq!(
        client
            .python("import os; print('GREETING' in os.environ)")
            .out(),
        "False\n"
    );
}

#[test]
fn shell_gets_only_its_script() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let outcome = client.shell("echo $0 $# $LINENO\ncat; set -- a b\necho $# $LINENO; echo ${MAPFILE-unset}; ls /proc/self/fd | wc -l; umask; trap");
    assert_eq!(outcome.out(), "main.sh 0 1\n2 3\nunset\n4\n0022\n");
    let script: String =
        (0..150_000).map(|n| format!("x={n}\n")).collect::<String>() + "echo $x $LINENO";
    assert_eq!(client.shell(&script).out(), "149999 150001\n");
    assert_eq!(
        client
            .shell("echo 'ünï' | cat; printf '%s' \"a'b\\\"c\"")
            .out(),
        "ünï\na'b\"c"
    );
}

#[test]
fn javascript_and_typescript() {
    if bun().is_none() {
        eprintln!("skipped: no bun; set FUMEHOOD_TEST_BUN to one");
        return;
    }
    let agent = Agent::open();
    let directory = agent.directory.path();
    std::fs::write(directory.join("lib.ts"), "export const seven: number = 7;").unwrap();
    std::fs::create_dir_all(directory.join("node_modules/dep")).unwrap();
    std::fs::write(
        directory.join("node_modules/dep/index.js"),
        "module.exports = 'dep';",
    )
    .unwrap();
    let mut client = agent.connect();
    let code = "import { seven } from './lib'; import dep from 'dep';
interface Point { x: number }
const p: Point = { x: await Promise.resolve(seven) };
console.log(p.x, dep, process.argv.length, process.argv[1].endsWith('/main.ts'), process.env.A);
console.error('err'); process.exit(7);";
    let mut request = exec(None, Language::Javascript, code);
    request.env_vars = [("A", "b")].into_iter().collect();
    client.send(&Request::Exec(request));
    let outcome = client.outcome();
    assert_eq!(
        (outcome.out(), outcome.err()),
        ("7 dep 2 true b\n", "err\n")
    );
    assert_eq!(outcome.complete().exit_code, 7);
    for (code, part) in [
        (
            "\nfunction f(): never { throw new Error('boom') }\nf()",
            "main.ts:2:",
        ),
        ("Promise.reject(new Error('later'))", "error: later"),
        ("const x = ;", "main.ts:1:"),
        (
            "import 'no-such-package-anywhere'",
            "no-such-package-anywhere",
        ),
    ] {
        let outcome = client.run(Language::Javascript, code);
        assert_eq!(outcome.complete().exit_code, 1, "{code}");
        assert!(outcome.err().contains(part), "{code}: {}", outcome.err());
    }
    let files = std::fs::read_dir(directory).unwrap().count();
    assert_eq!(files, 2, "main.ts is gone");
}

#[test]
fn javascript_runs_beside_other_main_files() {
    if bun().is_none() {
        eprintln!("skipped: no bun; set FUMEHOOD_TEST_BUN to one");
        return;
    }
    let agent = Agent::open();
    let own = agent.directory.path().join("main.ts");
    std::fs::write(&own, "console.log('mine')").unwrap();
    let mut client = agent.hello(&[]);
    for id in 0..5 {
        client.exec(
            id,
            Language::Javascript,
            &format!("await Bun.sleep(200); console.log('number {id}')"),
        );
    }
    let mut seen: Vec<String> = Vec::new();
    let mut ended = 0;
    while ended < 5 {
        match client.response() {
            fumehood_protocol::Response::Stdout(output) => {
                seen.push(String::from_utf8(output.chunk.into_bytes()).unwrap());
            }
            fumehood_protocol::Response::Complete(_) => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(
        seen.concat(),
        "number 0\nnumber 1\nnumber 2\nnumber 3\nnumber 4\n"
    );
    assert_eq!(std::fs::read_to_string(own).unwrap(), "console.log('mine')");
    assert_eq!(
        std::fs::read_dir(agent.directory.path()).unwrap().count(),
        1
    );
}

#[test]
fn arguments_reach_the_program() {
    let args = ["a b", "", "-x", "ä\n*"];
    let shown = "[a b][][-x][ä\n*]\n";
    let mut programs = vec![
        (
            Language::Python,
            "import sys; print(''.join(f'[{a}]' for a in sys.argv[1:]))",
        ),
        (Language::Shell, "printf '[%s]' \"$@\"; echo"),
    ];
    if bun().is_some() {
        let code = "console.log(process.argv.slice(2).map(a => `[${a}]`).join(''))";
        programs.push((Language::Javascript, code));
    }

    let agent = Agent::open();
    let mut client = agent.connect();
    for (language, code) in programs {
        let mut run = |context: Option<&str>, args: &[&str]| {
            let outcome = run_with(&mut client, language, code, |request| {
                request.args = args.iter().map(ToString::to_string).collect();
                request.context = context.map(ContextName::new);
            });
            outcome.out().to_string()
        };

        // In a context they stay.
        let name = language.as_str();
        assert_eq!(run(None, &args), shown, "{name}");
        assert_eq!(run(Some(name), &args), shown, "{name}");
        assert_eq!(run(Some(name), &[]), shown, "{name}");
        assert_eq!(run(Some(name), &["b"]), "[b]\n", "{name}");
    }
}
