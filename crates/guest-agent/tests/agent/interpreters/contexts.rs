//! Interpreters that keep their state.

use std::time::Instant;

use fumehood_protocol::{Complete, ContextName, EndedBy, ErrorType, Language, Request, Response};

use crate::interpreters::prepared::run_with;
use crate::support::{Agent, Client, Outcome, exec, wait_until};

fn run_in(client: &mut Client, name: &str, language: Language, code: &str) -> Outcome {
    run_with(client, language, code, |request| {
        request.context = Some(ContextName::new(name));
    })
}

fn python(client: &mut Client, code: &str) -> Outcome {
    run_in(client, "c", Language::Python, code)
}

fn shell(client: &mut Client, code: &str) -> Outcome {
    run_in(client, "s", Language::Shell, code)
}

fn detail(complete: &Complete) -> &str {
    complete.evidence.detail.as_deref().unwrap_or("")
}

#[test]
fn python_keeps_its_state() {
    let agent = Agent::open();
    let mut client = agent.connect();
    python(
        &mut client,
        "import os\nx = 1\ndef f(): return g()\nclass A: pass",
    );
    for (code, out, err, exit) in [
        ("x += 1; print(x)", "2\n", "", 0),
        (
            "1 / 0",
            "",
            "  File \"exec-3.py\", line 1, in <module>\n    1 / 0\n",
            1,
        ),
        ("def g():\n    return 1 / 0\n", "", "", 0),
        (
            "\nf()",
            "",
            "  File \"exec-1.py\", line 3, in f\n    def f(): return g()\n",
            1,
        ),
        (
            "\nf()",
            "",
            "  File \"exec-4.py\", line 2, in g\n    return 1 / 0\n",
            1,
        ),
        ("x = (", "", "SyntaxError: '(' was never closed", 1),
        ("import sys; sys.exit(7)", "", "", 7),
        ("sys.exit()", "", "", 0),
        ("sys.exit('bye')", "", "bye\n", 1),
        ("raise SystemExit(300)", "", "", 44),
        ("raise KeyboardInterrupt", "", "KeyboardInterrupt", 130),
        (
            "import pickle; print(isinstance(pickle.loads(pickle.dumps(A())), A), __name__)",
            "True __main__\n",
            "",
            0,
        ),
        (
            "import inspect; print(inspect.getsource(f), end='')",
            "def f(): return g()\n",
            "",
            0,
        ),
        ("print('no newline', end='')", "no newline", "", 0),
        ("os.close(1) if False else print(x)", "2\n", "", 0),
    ] {
        let outcome = python(&mut client, code);
        assert_eq!(outcome.out(), out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        let complete = outcome.complete();
        assert_eq!(
            (complete.exit_code, complete.ended_by),
            (exit, EndedBy::Exited),
            "{code}"
        );
        assert_eq!(detail(complete), "", "{code}");
        outcome.check_summaries();
    }
    let other = run_in(
        &mut client,
        "d",
        Language::Python,
        "print('x' in globals())",
    );
    assert_eq!(other.out(), "False\n");
    assert_eq!(client.python("print('x' in globals())").out(), "False\n");
}

#[test]
fn bash_keeps_its_state() {
    let agent = Agent::open();
    let mut client = agent.connect();
    shell(
        &mut client,
        "cd /tmp; x=5; f() { echo f $x $1; }; REPLY=mine; IFS=0; set -u",
    );
    for (code, out, err, exit) in [
        ("pwd; f 2; echo $REPLY", "/tmp\nf 5 2\nmine\n", "", 0),
        (
            "echo $LINENO\nnosuch",
            "1\n",
            "main.sh: line 2: nosuch: command not found\n",
            127,
        ),
        ("if then", "", "syntax error", 2),
        ("(exit 3)", "", "", 3),
        ("declare -A map; map[a]=b", "", "", 0),
        ("echo ${map[a]}; ls /proc/self/fd | wc -l", "b\n4\n", "", 0),
        ("sleep 60 & echo $x", "5\n", "", 0),
        ("kill %1 && echo killed", "killed\n", "", 0),
    ] {
        let outcome = shell(&mut client, code);
        assert_eq!(outcome.out(), out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert_eq!(outcome.complete().exit_code, exit, "{code}");
        assert_eq!(detail(outcome.complete()), "", "{code}");
    }
    let outcome = shell(&mut client, "exit 4");
    assert_eq!(outcome.complete().exit_code, 4);
    assert!(detail(outcome.complete()).contains("lost"), "{outcome:?}");
    assert_eq!(shell(&mut client, "echo ${x-unset}").out(), "unset\n");
}

#[test]
fn variables_last_for_one_exec() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (language, code) in [
        (
            Language::Python,
            "import os, time\nprint(os.environ.get('A', '-'), os.environ['HOME'] == '', time.tzname[0])",
        ),
        (
            Language::Shell,
            "echo \"${A--}\" $([[ $HOME ]] && echo False) $(date +%Z)",
        ),
    ] {
        let mut run = |vars: &[(&str, &str)]| {
            let vars = vars.iter().copied().collect();
            run_with(&mut client, language, code, |request| {
                request.context = Some(ContextName::new(language.as_str()));
                request.env_vars = vars;
            })
            .out()
            .to_string()
        };
        assert_eq!(run(&[]), "- False UTC\n");
        assert_eq!(run(&[("A", "b c='"), ("TZ", "XYZ-9")]), "b c=' False XYZ\n");
        assert_eq!(run(&[]), "- False UTC\n");
        assert_eq!(run(&[("A", "")]), " False UTC\n");
    }
}

#[test]
fn variables_that_act_at_start_stay_in_their_context() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import os, sys\nprint(os.environ.get('A'), os.environ.get('PYTHONHASHSEED'), sys.flags.hash_randomization)";
    let outcome = run_with(&mut client, Language::Python, code, |request| {
        request.context = Some(ContextName::new("c"));
        request.env_vars = [("A", "b"), ("PYTHONHASHSEED", "0")].into_iter().collect();
    });
    assert_eq!(outcome.out(), "b 0 0\n");
    assert_eq!(python(&mut client, code).out(), "None 0 0\n");
}

#[test]
fn context_uses_the_prepared_interpreter() {
    let agent = Agent::open();
    let mut client = agent.connect();
    run_with(&mut client, Language::Python, "import wave, random", |r| {
        r.prepare = true
    });
    let outcome = python(
        &mut client,
        "import sys, random; print('wave' in sys.modules); random.seed(42)",
    );
    assert_eq!(outcome.out(), "True\n");
    assert_eq!(
        python(&mut client, "print(random.random())").out(),
        "0.6394267984578837\n",
        "its own seed holds"
    );
    assert_eq!(agent.children().len(), 1);
}

#[test]
fn two_languages_and_many_contexts_at_once() {
    let agent = Agent::start(&["--no-token", "--limit", "contexts=16"]);
    let mut client = agent.hello(&[]);
    for id in 0..16 {
        let language = if id % 2 == 0 {
            Language::Python
        } else {
            Language::Shell
        };
        let code = if id % 2 == 0 {
            "x = 1\nimport time; time.sleep(0.2)"
        } else {
            "x=1; sleep 0.2"
        };
        let mut request = exec(Some(id), language, code);
        request.context = Some(ContextName::new(format!("name-{id}")));
        client.send(&Request::Exec(request));
    }
    for _ in 0..16 {
        assert_eq!(client.outcome().complete().exit_code, 0);
    }
    let past = run_in(&mut client, "one-more", Language::Shell, "true");
    let error = past.error.unwrap();
    assert!(error.message.contains("16"), "{}", error.message);
    let old = run_in(&mut client, "name-15", Language::Shell, "echo $x; exit 0");
    assert_eq!(old.out(), "1\n", "those that are there go on");
    let new = run_in(&mut client, "one-more", Language::Shell, "echo new");
    assert_eq!(new.out(), "new\n", "one that has ended makes room");
}

#[test]
fn what_is_refused() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    let mut refused = |name: &str, language, error_type: ErrorType, parts: &[&str]| {
        let error = run_in(&mut client, name, language, "1").error.unwrap();
        assert_eq!(error.error_type, error_type, "{}", error.message);
        for part in parts {
            assert!(error.message.contains(part), "{}", error.message);
        }
    };
    let request = ErrorType::RequestError;
    refused("a b", Language::Python, request, &["context"]);
    python(&mut client, "x = 1");
    let mut other = run_in(&mut client, "c", Language::Shell, "1");
    let error = other.error.take().unwrap();
    assert_eq!(error.error_type, request);
    assert!(
        error.message.contains("`c` is a context of python"),
        "{}",
        error.message
    );
    assert_eq!(python(&mut client, "print(x)").out(), "1\n");
}

#[test]
fn timeout_ends_the_exec_and_keeps_the_state() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=300"]);
    let mut client = agent.connect();
    python(&mut client, "import subprocess, signal, time, os\nx = 1");
    for code in [
        "while True: pass",
        "time.sleep(60)",
        "subprocess.run(['sleep', '60'])",
    ] {
        let outcome = run_with(&mut client, Language::Python, code, |request| {
            request.context = Some(ContextName::new("c"));
            request.timeout = Some(1);
        });
        let complete = outcome.complete();
        assert_eq!(
            (complete.ended_by, complete.exit_code),
            (EndedBy::Timeout, 124),
            "{code}"
        );
        assert_eq!(detail(complete), "", "{code}");
        assert!(
            outcome.err().ends_with("KeyboardInterrupt\n"),
            "{}",
            outcome.err()
        );
        assert_eq!(python(&mut client, "print(x)").out(), "1\n", "{code}");
    }
    let stubborn = "for s in (2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass";
    let outcome = run_with(&mut client, Language::Python, stubborn, |request| {
        request.context = Some(ContextName::new("c"));
        request.timeout = Some(1);
    });
    assert_eq!(outcome.complete().evidence.signal, Some(9));
    assert!(detail(outcome.complete()).contains("lost"), "{outcome:?}");
    assert_eq!(
        python(&mut client, "print('x' in globals())").out(),
        "False\n"
    );
    let outcome = run_with(&mut client, Language::Shell, "x=1; sleep 60", |request| {
        request.context = Some(ContextName::new("s"));
        request.timeout = Some(1);
    });
    assert_eq!(outcome.complete().ended_by, EndedBy::Timeout);
    assert_eq!(detail(outcome.complete()), "");
    assert_eq!(shell(&mut client, "echo $x").out(), "1\n");
}

#[test]
fn death_of_an_interpreter_is_reported_as_lost_state() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, ended_by, exit) in [
        (
            "import os\nprint('last words', end='', flush=True)\nos._exit(5)",
            EndedBy::Exited,
            5,
        ),
        (
            "import os\nprint('last words', end='', flush=True)\nos.kill(os.getpid(), 9)",
            EndedBy::Signaled,
            137,
        ),
    ] {
        python(&mut client, "x = 1");
        let outcome = python(&mut client, code);
        let complete = outcome.complete();
        assert_eq!((complete.ended_by, complete.exit_code), (ended_by, exit));
        assert_eq!(outcome.out(), "last words");
        assert!(detail(complete).contains("lost"), "{complete:?}");
        let next = python(&mut client, "print('x' in globals())");
        assert_eq!((next.out(), detail(next.complete())), ("False\n", ""));
    }
    python(
        &mut client,
        "import os, threading\nthreading.Timer(0.05, os._exit, (0,)).start()",
    );
    wait_until("it dies between two execs", || agent.children().is_empty());
    let next = python(&mut client, "print('anew')");
    assert_eq!(next.out(), "anew\n");
    assert!(detail(next.complete()).contains("lost"), "{next:?}");
    assert_eq!(detail(python(&mut client, "pass").complete()), "");
}

/// The program and its interpreter end at the same time: whichever end is noticed first, the agent
/// continues.
#[test]
fn interpreter_dies_when_its_program_ends() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for round in 0..30 {
        let delay = f64::from(round) * 0.00002;
        let code =
            format!("import os, threading\nthreading.Timer({delay}, os._exit, (0,)).start()");
        assert_eq!(python(&mut client, &code).complete().exit_code, 0);
        let next = python(&mut client, "pass");
        assert_eq!(next.complete().exit_code, 0, "{next:?}");
    }
    client.ping();
}

#[test]
fn forked_children_are_not_interpreters() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let fork = "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    print(os.waitstatus_to_exitcode(os.wait()[1]))";
    for _ in 0..3 {
        let outcome = python(&mut client, fork);
        assert_eq!(outcome.out(), "child\n0\n", "{}", outcome.err());
    }
    let fds = "import subprocess\nprint(subprocess.run('echo $(ls /proc/self/fd)', shell=True, close_fds=False, capture_output=True, text=True).stdout)";
    assert_eq!(
        python(&mut client, fds).out(),
        "0 1 2 3\n\n",
        "3 is the listing's own"
    );
    assert_eq!(agent.children().len(), 1);
}

#[test]
fn late_output_arrives_with_the_next_exec() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "import threading, time\ndef late():\n    time.sleep(0.1)\n    print('late')\nt = threading.Thread(target=late)\nt.start()\nprint('now')";
    assert_eq!(python(&mut client, code).out(), "now\n");
    assert_eq!(
        python(&mut client, "t.join()\nprint('next')").out(),
        "late\nnext\n"
    );
    let code = "import os\nprint('x' * 300_000)";
    let outcome = python(&mut client, code);
    assert_eq!(outcome.stdout.len(), 300_001, "all of it before the end");
}

#[test]
fn contexts_outlive_their_connection() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    python(&mut client, "x = 1");
    client.line(r#"{"action":"hello","protocol":1}"#);
    assert!(matches!(client.response(), Response::Hello(_)));
    assert_eq!(python(&mut client, "print(x)").out(), "1\n");
    drop(client);
    let mut client = agent.connect();
    assert_eq!(python(&mut client, "print(x)").out(), "1\n");
    let mut running = exec(
        Some(1),
        Language::Python,
        "import time; print('begun'); time.sleep(60)",
    );
    running.context = Some(ContextName::new("c"));
    client.send(&Request::Exec(running));
    assert!(matches!(client.response(), Response::Stdout(_)));
    drop(client);
    wait_until("what ran for the client ends", || {
        agent.children().is_empty()
    });
    let outcome = python(&mut agent.connect(), "print('x' in globals())");
    assert_eq!(outcome.out(), "False\n");
    assert!(detail(outcome.complete()).contains("lost"), "{outcome:?}");
}

#[test]
fn many_execs_in_one_context() {
    let agent = Agent::with_open_files(40);
    let mut client = agent.hello(&["raw_frames"]);
    python(&mut client, "n = 0");
    let mut times = Vec::new();
    for round in 1..=1500 {
        let begun = Instant::now();
        let mut request = exec(Some(1), Language::Python, "n += 1; print(n)");
        request.context = Some(ContextName::new("c"));
        client.send(&Request::Exec(request));
        let outcome = client.outcome();
        times.push(begun.elapsed());
        assert_eq!(outcome.out(), format!("{round}\n"));
    }
    times.sort();
    eprintln!(
        "an exec in a context: p50 {:?}, p99 {:?}",
        times[750], times[1485]
    );
    let begun = Instant::now();
    for _ in 0..300 {
        assert_eq!(shell(&mut client, "n=$((n + 1))").complete().exit_code, 0);
    }
    eprintln!("an exec in a context of bash: {:?}", begun.elapsed() / 300);
    assert_eq!(shell(&mut client, "echo $n").out(), "300\n");
}
