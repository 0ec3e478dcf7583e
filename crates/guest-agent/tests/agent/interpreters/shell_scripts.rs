//! Shell code that runs once: bash with the code as its script.

use fumehood_protocol::{ContextName, GuestPath, Language};

use crate::interpreters::prepared::{prepare, run_with};
use crate::support::{Agent, Client, Outcome};

/// Runs a script in a new bash, and in one that waits.
fn in_both(code: &str, check: impl Fn(&Outcome)) {
    let agent = Agent::open();
    let mut client = agent.connect();
    check(&client.shell(code));
    prepare(&mut client, Language::Shell, "echo ready");
    check(&client.shell(code));

    let left = std::fs::read_dir(agent.directory.path()).unwrap();
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name == "main.sh"), "{left:?}");
}

fn result(outcome: &Outcome) -> (&str, &str, i32) {
    (outcome.out(), outcome.err(), outcome.complete().exit_code)
}

#[test]
fn the_script_is_the_main_program() {
    let code = "[[ \"${BASH_SOURCE[0]}\" == \"$0\" ]] && echo main $0\n[[ -x main.sh ]]; echo $?; return 4";
    in_both(code, |outcome| {
        let error =
            "main.sh: line 2: return: can only `return' from a function or sourced script\n";
        assert_eq!(result(outcome), ("main main.sh\n0\n", error, 2));
    });
}

#[test]
fn errors_are_those_of_bash() {
    let code = "break\nset -u\necho on\necho $none\necho no";
    in_both(code, |outcome| {
        let error = "main.sh: line 1: break: only meaningful in a `for', `while', or `until' loop\n\
             main.sh: line 4: none: unbound variable\n";
        assert_eq!(result(outcome), ("on\n", error, 1));
    });
}

#[test]
fn traces_and_debug_traps_show_only_the_script() {
    let code = "trap 'echo \"[$BASH_COMMAND]\"' DEBUG\nset -x\nx=1";
    in_both(code, |outcome| {
        let out = "[set -x]\n[x=1]\n";
        assert_eq!(result(outcome), (out, "++ echo '[x=1]'\n+ x=1\n", 0));
    });
}

#[test]
fn bash_starts_as_anywhere_else() {
    let code = "echo $- ${BASH_ENV-unset} $SECONDS $# \"$(compgen -v | grep -c ^__)\" $_; printenv BASH_ENV";
    in_both(code, |outcome| {
        assert_eq!(result(outcome).0.split(" 0 0 0 ").next(), Some("hB unset"));
        assert_eq!(result(outcome).2, 1);
    });
}

#[test]
fn the_first_line_names_the_interpreter() {
    let programs = [
        ("#!/bin/bash -e\nfalse\necho no", "", 1),
        (
            "#!/bin/bash\necho \"$0 ${BASH_SOURCE[0]}\"",
            "main.sh main.sh\n",
            0,
        ),
        (
            "#!/usr/bin/env -S sed s/echo/said/;1d;3d\necho this\n",
            "said this\n",
            0,
        ),
        ("#!/no/such/interpreter\necho no", "", 127),
        ("#!/etc/passwd\necho no", "", 126),
    ];

    for (code, out, exit) in programs {
        in_both(code, |outcome| {
            assert_eq!(
                (outcome.out(), outcome.complete().exit_code),
                (out, exit),
                "{code} {}",
                outcome.err()
            );
            let is_missing = outcome.err().contains("./main.sh: ");
            assert_eq!(is_missing, exit > 1, "{}", outcome.err());
        });
    }
}

#[test]
fn scripts_at_the_same_time_have_their_own_files() {
    let agent = Agent::open();
    std::fs::write(agent.directory.path().join("main.sh"), "echo mine").unwrap();
    let mut client = agent.connect();
    prepare(&mut client, Language::Shell, "true");

    let outcome = client.shell("echo $0; bash main.sh");
    assert_eq!(outcome.out(), "main.2.sh\nmine\n");
    assert!(agent.directory.path().join("main.sh").exists());
    assert!(!agent.directory.path().join("main.2.sh").exists());
}

#[test]
fn with_a_directory_the_script_stays_where_it_is() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let home = agent.directory.path().canonicalize().unwrap();
    let run = |client: &mut Client| {
        run_with(client, Language::Shell, "echo $0; pwd", |request| {
            request.cwd = Some(GuestPath::new("/"));
        })
    };
    let outcome = run(&mut client);
    assert_eq!(outcome.out(), format!("{}/main.sh\n/\n", home.display()));
}

#[test]
fn devices_of_the_standard_streams_can_be_opened() {
    let code = "echo err > /dev/stderr; echo out > /dev/fd/1; cat /dev/stdin";
    in_both(code, |outcome| {
        assert_eq!(result(outcome), ("out\n", "err\n", 0));
    });
}

#[test]
fn a_waiting_bash_leaves_no_file() {
    let mut agent = Agent::open();
    let file = agent.directory.path().join("main.sh");
    let mut client = agent.connect();
    prepare(&mut client, Language::Shell, "true");
    assert_eq!(file.metadata().unwrap().len(), 0);

    // A program that replaces the file keeps its own.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "echo mine").unwrap();
    assert_eq!(
        client.shell("echo $0; bash main.sh").out(),
        "main.2.sh\nmine\n"
    );
    assert!(file.exists());

    std::fs::remove_file(&file).unwrap();
    prepare(&mut client, Language::Shell, "true");
    agent.terminate();
    assert!(!file.exists());
}

fn in_context(client: &mut Client, code: &str) -> Outcome {
    run_with(client, Language::Shell, code, |request| {
        request.context = Some(ContextName::new("c"));
    })
}

#[test]
fn a_context_is_a_main_program_that_shows_nothing_of_its_runner() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, out, err, exit) in [
        (
            "x=kept; [[ \"${BASH_SOURCE[0]}\" == \"$0\" ]] && echo main $0; echo $SECONDS",
            "main main.sh\n0\n",
            "",
            0,
        ),
        ("set -x; y=1", "", "++ y=1\n", 0),
        ("y=2", "", "++ y=2\n", 0),
        ("set +x", "", "++ set +x\n", 0),
        ("y=3", "", "", 0),
        (
            "trap 'echo \"[$BASH_COMMAND]\"' DEBUG\ny=4",
            "[y=4]\n",
            "",
            0,
        ),
        ("y=5", "[y=5]\n", "", 0),
        ("trap - DEBUG", "[trap - DEBUG]\n", "", 0),
        ("y=6", "", "", 0),
        ("echo $LINENO\nnosuch; (exit 3)", "1\n", "line 2: nosuch", 3),
        ("break; echo no", "", "only meaningful in a loop", 1),
        ("continue; echo no", "", "only meaningful in a loop", 1),
        (
            "for i in 1 2 3; do [[ $i != 2 ]] || break; echo $i; done; echo $x",
            "1\nkept\n",
            "",
            0,
        ),
    ] {
        let outcome = in_context(&mut client, code);
        assert_eq!(outcome.out(), out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert_eq!(err.is_empty(), outcome.err().is_empty(), "{code}");
        assert_eq!(outcome.complete().exit_code, exit, "{code}");
    }

    let outcome = in_context(&mut client, "set -u; echo $none");
    assert_eq!(result(&outcome).2, 1);
    let detail = outcome.complete().evidence.detail.clone();
    assert!(
        detail.is_some_and(|text| text.contains("lost")),
        "{outcome:?}"
    );
}
