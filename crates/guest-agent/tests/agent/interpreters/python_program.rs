//! Python programs see what they see when plain `python3` runs their file; contexts know magics.

use fumehood_protocol::{ContextName, GuestPath, Language};

use crate::interpreters::prepared::run_with;
use crate::interpreters::python::{shown, text};
use crate::support::{Agent, Client, Outcome};

/// Runs a program in a fresh interpreter, in a prepared one and with displayed values.
fn in_all_modes(client: &mut Client, code: &str, check: impl Fn(&str, &Outcome)) {
    for mode in ["fresh", "prepared", "display"] {
        if mode == "prepared" {
            run_with(client, Language::Python, "import re", |r| r.prepare = true);
        }
        let outcome = run_with(client, Language::Python, code, |request| {
            request.fresh = mode == "fresh";
            request.display = mode == "display";
        });
        check(mode, &outcome);
    }
}

#[test]
fn program_is_a_file() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import multiprocessing, os, subprocess, sys
def square(x): return x * x
if __name__ == '__main__' and len(sys.argv) == 1:
    print(open(__file__).readline(), end='')
    print(subprocess.run([sys.executable, __file__, 'again'], capture_output=True, text=True).stdout)
    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(square, [3]))
elif __name__ == '__main__':
    print('child', sys.argv[1:])
";
    in_all_modes(&mut client, code, |mode, outcome| {
        let out = "import multiprocessing, os, subprocess, sys\nchild ['again']\n\n[9]\n";
        assert_eq!((outcome.out(), outcome.err()), (out, ""), "{mode}");
    });

    let left = std::fs::read_dir(agent.directory.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The file of a waiting interpreter must not take the place of a file of the user's.
#[test]
fn files_of_the_user_stay() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let main = agent.directory.path().join("main.py");

    // Written while an interpreter waits with an empty file of this name.
    run_with(&mut client, Language::Python, "pass", |r| r.prepare = true);
    std::fs::write(&main, "X = 'of the user'").unwrap();
    let code = "import os, main\nprint(main.X, os.path.basename(__file__))";
    let outcome = client.python(code);
    let out = "of the user main.2.py\n";
    assert_eq!(outcome.out(), out, "{}", outcome.err());
    let content = || std::fs::read_to_string(&main).unwrap();
    assert_eq!(content(), "X = 'of the user'");

    // Written by the program itself.
    std::fs::remove_file(&main).unwrap();
    let code = "import os\nwith open('main.py', 'w') as file: file.write('by the program')";
    client.python(code);
    assert_eq!(content(), "by the program");
    assert!(!agent.directory.path().join("main.2.py").exists());
}

#[test]
fn output_of_c_code_is_not_lost() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import ctypes\nctypes.CDLL(None).printf(b'from C')";
    in_all_modes(&mut client, code, |mode, outcome| {
        assert!(outcome.out().starts_with("from C"), "{mode}: {outcome:?}");
    });

    let outcome = run_with(&mut client, Language::Python, code, |request| {
        request.context = Some(ContextName::new("c"));
    });
    assert_eq!(outcome.out(), "from C", "with its own exec");
}

#[test]
fn errors_show_their_lines() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import atexit, traceback, warnings\ndef bad():\n    1 / 0\natexit.register(bad)\nwarnings.warn('careful')\ntraceback.print_stack()";
    in_all_modes(&mut client, code, |mode, outcome| {
        let err = outcome.err();
        for part in [
            "  warnings.warn('careful')\n",
            "    1 / 0\n",
            "main.py\", line 6, in <module>\n    traceback.print_stack()",
        ] {
            assert!(err.contains(part), "{mode}: {err}");
        }
        assert!(!err.contains("keep.py"), "{mode}: {err}");
    });

    // Programs that cannot see their file run without one, until they fail.
    run_with(&mut client, Language::Python, "import re", |r| {
        r.prepare = true;
    });
    let outcome = client.python("value = 1\nprint(valeu)");
    for part in [
        "main.py\", line 2, in <module>\n    print(valeu)\n",
        "Did you mean: 'value'?\n",
    ] {
        assert!(outcome.err().contains(part), "{}", outcome.err());
    }
    assert!(!agent.directory.path().join("main.py").exists());
}

#[test]
fn exit_codes_of_every_way_to_end() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let own_last = "import sys\ntry: 1 / 0\nexcept ZeroDivisionError as e: sys.last_value, sys.last_traceback = e, e.__traceback__";
    let own_last_and_exit = format!("{own_last}\nsys.exit(7)");
    for (code, exit) in [
        ("pass", 0),
        ("import os, sys\nsys.exit(7)", 7),
        ("import os, sys\ndel __file__\nsys.exit(7)", 7),
        (
            "import os, sys\nsys.excepthook = lambda *_: sys.exit(7)\n1 / 0",
            7,
        ),
        ("import os\n1 / 0", 1),
        (own_last, 0),
        (&own_last_and_exit, 7),
        ("import atexit, os\natexit.register(os._exit, 7)", 7),
    ] {
        in_all_modes(&mut client, code, |mode, outcome| {
            assert_eq!(outcome.complete().exit_code, exit, "{mode}: {code}");
        });
    }
}

/// What was printed to one stream is written before what is printed to the other one later.
#[test]
fn streams_are_flushed_before_each_other() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import os, sys
reader, writer = os.pipe()
os.dup2(writer, 1), os.dup2(writer, 2)
print('one', end='')
print('two', end='', file=sys.stderr)
print('three')
with open('seen', 'wb') as file: file.write(os.read(reader, 100))
";
    in_all_modes(&mut client, code, |mode, _| {
        let seen = std::fs::read_to_string(agent.directory.path().join("seen")).unwrap();
        assert_eq!(seen, "onetwothree\n", "{mode}");
    });
}

#[test]
fn contexts_import_from_the_current_directory() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("near.py"), "X = 5").unwrap();
    std::fs::write(directory.path().join("other.py"), "X = 6").unwrap();
    let path = directory.path().display().to_string();

    let moved = format!(
        "import os, sys\nos.chdir({path:?})\nimport near\nprint(near.X, repr(sys.path[0]))"
    );
    let outcome = run_with(&mut client, Language::Python, &moved, |request| {
        request.context = Some(ContextName::new("moved"));
    });
    assert_eq!(outcome.out(), "5 ''\n", "{}", outcome.err());

    let code = "import other\nprint(other.X, type(__builtins__))";
    let outcome = run_with(&mut client, Language::Python, code, |request| {
        request.context = Some(ContextName::new("given"));
        request.cwd = Some(GuestPath::new(&path));
    });
    assert_eq!(outcome.out(), "6 <class 'module'>\n", "{}", outcome.err());
}

#[test]
fn magics() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, out, err, exit) in [
        ("!echo $((1 + 2))", "3\n", "", 0),
        (
            "n = 3\nlines = !printf '%s\\n' {n} $n\nprint(lines, lines.s)",
            "['3', '3'] 3 3\n",
            "",
            0,
        ),
        (
            "%cd /tmp\nimport os\nprint(os.getcwd())",
            "/tmp\n/tmp\n",
            "",
            0,
        ),
        ("%env A=5\n!echo $A", "env: A=5\n5\n", "", 0),
        ("%%bash\nfor i in 1 2; do echo $i; done", "1\n2\n", "", 0),
        (
            "for i in range(2):\n    !echo {i}\nprint('end')",
            "0\n1\nend\n",
            "",
            0,
        ),
        (
            "text = '''\n!no command\n'''\nprint(text, (7\n% 4))\n%matplotlib inline",
            "\n!no command\n 3\n",
            "",
            0,
        ),
        ("get_ipython().system('echo called')", "called\n", "", 0),
        (
            "%nothing",
            "",
            "UsageError: Line magic function `%nothing` not found",
            1,
        ),
        ("x = (", "", "SyntaxError: '(' was never closed", 1),
        (
            "print('before')\n!echo it\n1 / 0",
            "before\nit\n",
            "line 3, in <module>\n    1 / 0\n",
            1,
        ),
        ("n?", "String form: 3\n", "", 0),
    ] {
        let outcome = shown(&mut client, code);
        assert!(outcome.out().contains(out), "{code}: {outcome:?}");
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert_eq!(outcome.complete().exit_code, exit, "{code}");
    }

    let timed = shown(&mut client, "%timeit -n 2 -r 2 sum([1])\n%time 6 * 7");
    assert!(timed.out().contains(" per loop") && timed.out().contains("Wall time: "));
    assert_eq!(text(&timed.values()[0]), "42");

    // A one-shot program is plain Python.
    let plain = client.python("!echo no");
    assert!(plain.err().contains("SyntaxError"), "{}", plain.err());
}
