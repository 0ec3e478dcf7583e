//! Shell contexts: interrupts that keep the state, and the other parts of bash's state.

use std::time::Duration;

use fumehood_protocol::{ContextName, EndedBy, Exec, GuestPath, Language, Request, Response};

use crate::interpreters::prepared::run_with;
use crate::operations::input::stdin;
use crate::support::{Agent, Client, Outcome, exec, wait_until};

/// Time for the command after a program's first output to start.
const PAUSE: Duration = Duration::from_millis(50);

fn shell(client: &mut Client, code: &str) -> Outcome {
    run_in_directory(client, code, None)
}

fn run_in_directory(client: &mut Client, code: &str, cwd: Option<&str>) -> Outcome {
    run_with(client, Language::Shell, code, |request| {
        request.context = Some(ContextName::new("s"));
        request.cwd = cwd.map(GuestPath::new);
        request.env_vars = cwd.map(|_| ("A", "b")).into_iter().collect();
    })
}

fn begin(client: &mut Client, code: &str, change: impl FnOnce(&mut Exec)) -> Outcome {
    let mut request = exec(Some(1), Language::Shell, code);
    request.context = Some(ContextName::new("s"));
    change(&mut request);
    client.send(&Request::Exec(request));
    let mut outcome = Outcome::default();
    let (response, bytes) = client.message();
    assert!(matches!(response, Response::Stdout(_)), "{response:?}");
    outcome.add(response, bytes);
    outcome
}

/// Cancels the code after its first output, and asserts that the state is kept.
fn interrupted(client: &mut Client, code: &str, with_input: bool) -> Outcome {
    let mut outcome = begin(client, code, |request| request.stdin = with_input);
    std::thread::sleep(PAUSE);
    client.cancel(1);
    client.collect_rest(&mut outcome);
    let complete = outcome.complete();
    assert_eq!(complete.ended_by, EndedBy::Cancelled, "{code}");
    assert_eq!(complete.evidence.detail, None, "{code}");
    assert!(
        !outcome.out().contains("after"),
        "{code}: {}",
        outcome.out()
    );
    outcome
}

#[test]
fn interrupt_ends_the_exec_and_keeps_the_state() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    shell(
        &mut client,
        "x=5; nap() { sleep 60; echo after; }; spin() { while :; do :; done; echo after; }; deep() { nap; echo after; }",
    );
    for code in [
        "echo begun; sleep 60; echo after",
        "echo begun; while :; do :; done; echo after",
        "echo begun; for ((;;)); do ((n++)); done\necho after",
        "echo begun; while [[ 1 ]]; do for i in 1 2; do case x in x) ;; esac; done; done; echo after",
        "echo begun; nap; echo after",
        "echo begun; spin; echo after",
        "echo begun; deep; echo after",
        "echo begun\nwhile deep; do deep; done; until deep; do deep; done\ndeep && deep || deep; echo after",
        "echo begun; sleep 60 | cat | cat; echo after",
        "echo begun; spin | cat; echo after",
        "echo begun; y=$(sleep 60); echo after",
        "echo begun; y=$(spin; echo after); echo after $y",
        "echo begun; (spin); echo after",
        "echo begun; if sleep 60; then echo after; else echo after; fi",
        "echo begun; ! nap; { nap; }; time nap; echo after",
        "echo begun; eval 'sleep 60; echo after'; echo after",
        ". /proc/self/fd/9 9<<< 'echo begun; sleep 60; echo after'; echo after",
        "while read -r line; do echo begun; sleep 60; done < /etc/passwd; echo after",
        "echo begun; set -e; nap; echo after",
        "echo begun; set +e; set -u; spin; echo after",
        "trap 'echo on error' ERR; trap 'echo on return' RETURN; echo begun; nap; echo after",
        "trap - ERR RETURN; trap 'true' DEBUG; echo begun; nap; echo after",
        "sleep 60 & echo begun; wait; echo after",
    ] {
        let outcome = interrupted(&mut client, code, false);
        assert_eq!(
            outcome.err().lines().find(|line| line.contains("bash")),
            None,
            "{code}: {}",
            outcome.err()
        );
        let next = shell(
            &mut client,
            "echo $x $LINENO; shopt extdebug || trap -p DEBUG",
        );
        assert_eq!(
            next.out(),
            "5 1\nextdebug       \toff\n",
            "{code}: {}",
            next.err()
        );
    }
    let next = shell(&mut client, "jobs -r | wc -l; kill $!; set +u; echo $-");
    assert_eq!(next.out(), "1\nhB\n", "{}", next.err());
    for _ in 0..100 {
        interrupted(&mut client, "echo begun; spin", false);
    }
    assert_eq!(shell(&mut client, "echo $x").out(), "5\n");
}

#[test]
fn interrupt_ends_a_wait_for_input() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    for code in [
        "echo begun; read -r line; echo after",
        "echo begun; mapfile lines; echo after",
        "f() { read -r line; echo after; }; echo begun; f; echo after",
        "echo begun; while read -r line; do :; done; echo after",
        "echo begun; cat; echo after",
    ] {
        interrupted(&mut client, code, true);
        let mut outcome = begin(
            &mut client,
            "echo begun; read -r a; echo $a; cat; ls /proc/self/fd | wc -l",
            |r| r.stdin = true,
        );
        stdin(&mut client, 1, b"one\ntwo\n", true);
        client.collect_rest(&mut outcome);
        assert_eq!(
            outcome.out(),
            "begun\none\ntwo\n4\n",
            "{code}: {}",
            outcome.err()
        );
    }
}

#[test]
fn program_can_handle_interrupts() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=300"]);
    let mut client = agent.hello(&["cancel"]);
    shell(&mut client, "x=5; trap 'echo handled' INT");
    for _ in 0..2 {
        let mut outcome = begin(&mut client, "echo begun; sleep 60; echo $x", |_| {});
        std::thread::sleep(PAUSE);
        client.cancel(1);
        client.collect_rest(&mut outcome);
        assert_eq!(outcome.out(), "begun\nhandled\n5\n");
        assert_eq!(outcome.complete().ended_by, EndedBy::Cancelled);
    }
    // Without a handler, bash dies of the signal as usual.
    shell(&mut client, "trap - INT");
    let mut outcome = begin(&mut client, "echo begun; sleep 60", |_| {});
    client.cancel(1);
    client.collect_rest(&mut outcome);
    let detail = outcome.complete().evidence.detail.clone().unwrap();
    assert!(detail.contains("lost"), "{detail}");
    assert_eq!(shell(&mut client, "echo ${x-anew}").out(), "anew\n");
}

#[test]
fn interrupt_between_two_execs_is_ignored() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let pid = shell(&mut client, "x=5; echo $$")
        .out()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    for _ in 0..100 {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
    // An interrupt that is still pending when the next exec arrives would hit that one.
    std::thread::sleep(PAUSE);
    let next = shell(&mut client, "echo $x");
    assert_eq!((next.out(), next.err()), ("5\n", ""));
    wait_until("it is the same one", || agent.children().len() == 1);
}

/// The interrupt may arrive before the interpreter has read the message of its exec.
#[test]
fn early_interrupt_belongs_to_its_exec() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    for (language, first, code, next) in [
        (Language::Shell, "x=5", "while :; do :; done", "echo $x"),
        (Language::Python, "x = 5", "while True: pass", "print(x)"),
    ] {
        let mut begin = |code: &str, is_cancelled: bool| {
            let mut request = exec(Some(1), language, code);
            request.context = Some(ContextName::new(language.as_str()));
            client.send(&Request::Exec(request));
            if is_cancelled {
                client.cancel(1);
            }
            client.outcome()
        };
        begin(first, false);
        for _ in 0..100 {
            let outcome = begin(code, true);
            let complete = outcome.complete();
            assert_eq!(complete.ended_by, EndedBy::Cancelled);
            assert_eq!(complete.evidence.detail, None, "{language}");
            assert_eq!(begin(next, false).out(), "5\n", "{language}");
        }
    }
}

#[test]
fn context_keeps_shell_settings() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for (code, out, err) in [
        (
            "declare -i n=1; declare -a list=(a 'b c'); declare -A map=([k]=v)",
            "",
            "",
        ),
        ("n+=4; echo $n ${#list[@]} ${map[k]}", "5 2 v\n", ""),
        (
            "shopt -s expand_aliases extglob; alias hi='echo hello'",
            "",
            "",
        ),
        (
            "hi; [[ aab == +(a)b ]] && echo matched",
            "hello\nmatched\n",
            "",
        ),
        ("f() {\n  cat <<END\n$1 $LINENO\nEND\n  nosuch\n}", "", ""),
        ("\nf one", "one 2\n", "line 5: nosuch: command not found\n"),
        (
            "\n\nnosuch",
            "",
            "main.sh: line 3: nosuch: command not found\n",
        ),
        (
            "cat <<'END'\n$x\nEND\necho 'un\nclosed'",
            "$x\nun\nclosed\n",
            "",
        ),
        (
            "return 3\necho on",
            "on\n",
            "can only `return' from a function or sourced script",
        ),
        ("echo 'unclosed", "", "unexpected EOF"),
        ("set -o pipefail; false | true", "", ""),
        (
            "echo $? ${PIPESTATUS[@]}; set -o | grep pipefail",
            "0 0\npipefail       \ton\n",
            "",
        ),
        ("umask 027; set -- a b; exec 7< /etc/passwd", "", ""),
        (
            "umask; echo $#; read -r -u 7 line; echo ${line%%:*}; exec 7<&-",
            "0027\n2\nroot\n",
            "",
        ),
        ("sleep 60 & disown -h %1; jobs | wc -l", "1\n", ""),
        ("kill %1; wait $! 2> /dev/null; echo $?", "143\n", ""),
    ] {
        let outcome = shell(&mut client, code);
        // The previous PIPESTATUS belongs to the agent.
        let shown = outcome.out().replace("0 1\npipefail", "0 0\npipefail");
        assert_eq!(shown, out, "{code}: {}", outcome.err());
        assert!(outcome.err().contains(err), "{code}: {}", outcome.err());
        assert!(
            !err.is_empty() || outcome.err().is_empty(),
            "{code}: {}",
            outcome.err()
        );
    }
}

#[test]
fn working_directory_lasts_for_one_exec() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    let here = agent.directory.path().canonicalize().unwrap();
    // The agent can open the directory, but a context in another directory cannot.
    let gone = "/proc/self/cwd/sub";
    std::fs::create_dir(here.join("sub")).unwrap();
    let here = here.display();
    let mut run = |code: &str, cwd: Option<&str>| {
        let outcome = run_in_directory(&mut client, code, cwd);
        (
            outcome.out().to_string(),
            outcome.complete().exit_code,
            outcome.err().to_string(),
        )
    };
    let said = |text: String| (text, 0, String::new());
    assert_eq!(
        run("pwd; echo $A; cd /", Some("/usr")),
        said("/usr\nb\n".into())
    );
    assert_eq!(
        run("pwd; echo ${OLDPWD-none} ${A-none}; cd /etc", None),
        said(format!("{here}\nnone none\n"))
    );
    let (out, exit, err) = run("echo runs", Some(gone));
    assert_eq!((out.as_str(), exit), ("", 1));
    assert_eq!(
        err,
        "main.sh: line 1: cd: /proc/self/cwd/sub: No such file or directory\n"
    );
    assert_eq!(
        run("pwd; echo $OLDPWD ${A-none}", None),
        said(format!("/etc\n{here} none\n"))
    );
    assert_eq!(run("set -e", Some("/usr")), said(String::new()));
    assert_eq!(run("echo runs", Some(gone)).1, 1);
    assert_eq!(
        run("pwd; set +e", None),
        said("/etc\n".into()),
        "no failure of its own"
    );
    assert_eq!(run("pwd", Some("sub")), said(format!("{here}/sub\n")));
    let mut outcome = begin(&mut client, "pwd; sleep 60", |request| {
        request.cwd = Some(GuestPath::new("/usr"));
        request.env_vars = [("A", "b")].into_iter().collect();
    });
    client.cancel(1);
    client.collect_rest(&mut outcome);
    assert_eq!(outcome.out(), "/usr\n");
    assert_eq!(
        shell(&mut client, "pwd; echo ${A-none}").out(),
        "/etc\nnone\n"
    );
    for prepare in [false, true] {
        if prepare {
            run_with(&mut client, Language::Shell, "true", |r| r.prepare = true);
        }
        let outcome = run_with(&mut client, Language::Shell, "pwd", |request| {
            request.cwd = Some(GuestPath::new("/usr"));
        });
        assert_eq!(outcome.out(), "/usr\n", "{}", outcome.err());
    }
}

#[test]
fn writing_to_every_descriptor_only_ends_the_own_exec() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let code = "for fd in {0..20} {250..255}; do { printf 'r\\n7\\n\\0x' >&$fd; } 2> /dev/null; done; echo done";
    for context in [Some("forger"), None] {
        let outcome = run_with(&mut client, Language::Shell, code, |request| {
            request.context = context.map(ContextName::new);
        });
        assert!(outcome.complete.is_some(), "{outcome:?}");
    }
    assert_eq!(shell(&mut client, "echo next").out(), "next\n");
}
