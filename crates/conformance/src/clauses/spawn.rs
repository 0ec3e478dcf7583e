//! `spawn`, `list_processes`, and preparation of interpreters.

use serde_json::{Value, json};

use super::lab::{Clause, Lab, ends_with, ends_with_error, python, shell, succeed, with};
use crate::client::{Check, Connection, ensure, fail, not_offered};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "SPAWN-1",
        1,
        "`started` comes first, with the process id; the program has its own session",
        started_first,
    ),
    Clause::new(
        "SPAWN-2",
        1,
        "`argv[0]` is searched in `PATH` unless it contains a `/`",
        searched,
    ),
    Clause::new(
        "SPAWN-3",
        1,
        "`pty` gives a terminal of that size, whose output is `stdout`",
        terminal,
    ),
    Clause::new(
        "SPAWN-4",
        1,
        "`resize` changes the size of the terminal",
        resize,
    ),
    Clause::new("SPAWN-5", 1, "`timeout` ends the program", timeout),
    Clause::new(
        "SPAWN-6",
        1,
        "a spawn ends with its first process; those that remain are killed and counted",
        first_process,
    ),
    Clause::new("SPAWN-7", 1, "`user: \"root\"` is rejected", root),
    Clause::new("SPAWN-8", 1, "`signal` reaches the program", signal),
    Clause::new("SPAWN-9", 1, "`env_vars` and `cwd` apply", environment),
    Clause::new(
        "SPAWN-10",
        1,
        "an `argv` without a program is a `request_error`",
        no_program,
    ),
    Clause::new(
        "PROC-1",
        1,
        "`list_processes` lists everything that has not ended, with its process ids",
        listed,
    ),
    Clause::new(
        "PKG-1",
        0,
        "the messages of the installer are the output, its end a `complete`",
        installer,
    ),
    Clause::new(
        "PREP-1",
        1,
        "a preparation is answered as any exec",
        prepare_answer,
    ),
    Clause::alone(
        "PREP-2",
        1,
        "after a preparation, imports stay and names do not",
        prepare_effect,
    ),
    Clause::new(
        "PREP-3",
        1,
        "a preparation with a variable that acts at a start is an `env_var_error`",
        prepare_variables,
    ),
    Clause::new("PREP-4", 1, "`fresh` gives a new process", fresh),
];

fn spawn(argv: &[&str], fields: &Value) -> Value {
    with(json!({"action": "spawn", "argv": argv, "op_id": 1}), fields)
}

fn started_first(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let code = "import os; print(os.getpid(), os.getsid(0))";
    client.send(&spawn(&["python3", "-c", code], &json!({})))?;
    let pid = client
        .receive()?
        .expect("started")?
        .number("pid")
        .unwrap_or(0);
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.out() == format!("{pid} {pid}\n"),
        "process {pid} prints its number and session: {}",
        outcome.show()
    );
    Ok(())
}

fn searched(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let outcome = succeed(client.run(&spawn(&["echo", "a b"], &json!({})))?)?;
    ensure!(outcome.out() == "a b\n", "`echo`: {}", outcome.show());
    succeed(client.run(&spawn(&["/bin/true"], &json!({})))?)?;

    for missing in ["no-such-program-here", "./no-such-program-here"] {
        ends_with_error(client.run(&spawn(&[missing], &json!({})))?, "path_error")?;
    }
    Ok(())
}

fn terminal(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let size = json!({"pty": {"rows": 31, "cols": 97}});
    let outcome = succeed(client.run(&spawn(
        &["sh", "-c", "stty size; test -t 1 && echo terminal >&2"],
        &size,
    ))?)?;
    let text = outcome.out().replace("\r\n", "\n");
    ensure!(
        text == "31 97\nterminal\n" && outcome.stderr.is_empty(),
        "{}",
        outcome.show()
    );
    Ok(())
}

fn resize(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let code = "import os, signal, time
def show(*_): os.write(1, str(os.get_terminal_size(0)).encode()); os._exit(0)
signal.signal(signal.SIGWINCH, show)
print('ready', flush=True)
time.sleep(60)";
    client.send(&spawn(
        &["python3", "-c", code],
        &json!({"pty": {"rows": 10, "cols": 20}}),
    ))?;
    client.receive()?.expect("started")?;
    client.receive()?.expect("stdout")?;
    client.send(&json!({"action": "resize", "op_id": 1, "rows": 44, "cols": 55}))?;
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.out().contains("columns=55, lines=44"),
        "{}",
        outcome.show()
    );
    Ok(())
}

fn timeout(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let outcome = ends_with(
        client.run(&spawn(&["sleep", "60"], &json!({"timeout": 1})))?,
        124,
    )?;
    ensure!(outcome.ended_by() == "timeout", "{}", outcome.show());
    ends_with_error(
        client.run(&spawn(&["true"], &json!({"timeout": 301})))?,
        "request_error",
    )?;
    succeed(client.run(&spawn(&["true"], &json!({"timeout": 0})))?).map(drop)
}

fn first_process(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let outcome = ends_with(
        client.run(&spawn(&["sh", "-c", "sleep 60 & exit 5"], &json!({})))?,
        5,
    )?;
    ensure!(
        *outcome.evidence("left_processes") == 1,
        "{}",
        outcome.show()
    );
    Ok(())
}

fn root(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    ends_with_error(
        client.run(&spawn(&["true"], &json!({"user": "root"})))?,
        "request_error",
    )?;
    ends_with_error(
        client.run(&spawn(&["true"], &json!({"user": "nobody"})))?,
        "request_error",
    )?;
    succeed(client.run(&spawn(&["true"], &json!({"user": "user"})))?).map(drop)
}

fn signal(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let code = "trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.05; done";
    client.send(&spawn(&["sh", "-c", code], &json!({})))?;
    client.receive()?.expect("started")?;
    client.receive()?.expect("stdout")?;
    client.send(&json!({"action": "signal", "op_id": 1, "signal": "USR1"}))?;
    let outcome = ends_with(client.collect(Some(1))?, 7)?;
    ensure!(outcome.out() == "usr1\n", "{}", outcome.show());

    client.send(&spawn(&["sleep", "60"], &json!({})))?;
    client.receive()?.expect("started")?;
    client.send(&json!({"action": "signal", "op_id": 1, "signal": "KILL"}))?;
    let outcome = ends_with(client.collect(Some(1))?, 137)?;
    ensure!(
        outcome.ended_by() == "signaled" && *outcome.evidence("signal") == 9,
        "{}",
        outcome.show()
    );
    Ok(())
}

fn environment(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let fields = json!({"env_vars": {"CONFORMANCE_A": "b"}, "cwd": "/usr"});
    let outcome = succeed(client.run(&spawn(&["sh", "-c", "echo $CONFORMANCE_A; pwd"], &fields))?)?;
    ensure!(outcome.out() == "b\n/usr\n", "{}", outcome.show());
    ends_with_error(
        client.run(&spawn(&["true"], &json!({"env_vars": {"LD_PRELOAD": "x"}})))?,
        "env_var_error",
    )
    .map(drop)
}

fn no_program(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    for argv in [&[][..], &[""], &["a\0b"]] {
        ends_with_error(client.run(&spawn(argv, &json!({})))?, "request_error")?;
    }
    Ok(())
}

fn listed(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes", "cancel"])?;
    let fields = json!({"tag": lab.tag});
    client.send(&spawn(
        &["sh", "-c", "sleep 60 & echo ready; wait"],
        &fields,
    ))?;
    let pid = client.receive()?.expect("started")?.number("pid");
    client.receive()?.expect("stdout")?;

    let find = |client: &mut Connection| -> Check<Option<Value>> {
        let list = client
            .ask(&json!({"action": "list_processes"}))?
            .expect("processes")?;
        let processes = list.field("processes").as_array().into_iter().flatten();
        Ok(processes
            .into_iter()
            .find(|process| process["tag"] == *lab.tag)
            .cloned())
    };
    let Some(found) = find(&mut client)? else {
        fail!("the spawn is not listed")
    };

    ensure!(
        found["pid"].as_i64() == pid && found["kind"] == "spawn",
        "process {pid:?}: {found}"
    );
    // Without a cgroup, as outside of a guest, the agent cannot know them.
    let pids = found["pids"].as_array().map_or(0, Vec::len);
    ensure!(
        pids == 2 || (pids == 0 && !lab.offers("refresh")),
        "process {pid:?} has a child: {found}"
    );

    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    client.collect(Some(1))?;
    ensure!(
        find(&mut client)?.is_none(),
        "the spawn is listed after its end"
    );
    Ok(())
}

fn installer(lab: &Lab<'_>) -> Check {
    if !lab.agent.packages {
        not_offered!("packages are installed only with `--packages`");
    }

    let mut client = lab.seed()?;
    let request = json!({"action": "install_packages", "language": "python",
        "packages": ["fumehood-conformance-no-such-package==0"], "timeout": 60});
    let outcome = client.run(&request)?;
    ensure!(outcome.end.kind() == "complete", "{}", outcome.show());
    ensure!(
        outcome.exit_code() != Some(0),
        "a package that does not exist was installed: {}",
        outcome.show()
    );
    ensure!(
        !outcome.stderr.is_empty() || !outcome.stdout.is_empty(),
        "the installer said nothing: {}",
        outcome.show()
    );
    Ok(())
}

fn prepare_answer(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let prepare = |code: &str| with(python(code), &json!({"op_id": 1, "prepare": true}));
    let outcome = succeed(client.run(&prepare("print('prepared')"))?)?;
    ensure!(outcome.out() == "prepared\n", "{}", outcome.show());
    ends_with(client.run(&prepare("raise SystemExit(5)"))?, 5).map(drop)
}

fn prepare_effect(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let code = "import sys, fractions\nsys.conformance = True\nname = 1";
    succeed(client.run(&with(python(code), &json!({"op_id": 1, "prepare": true})))?)?;
    let read = "import sys; print('fractions' in sys.modules, hasattr(sys, 'conformance'), 'name' in globals())";

    let outcome = succeed(client.run(&with(python(read), &json!({"op_id": 1})))?)?;
    ensure!(
        outcome.out() == "True True False\n",
        "the next exec: {}",
        outcome.show()
    );
    let outcome = succeed(client.run(&with(python(read), &json!({"op_id": 1})))?)?;
    ensure!(
        outcome.out() == "False False False\n",
        "the one after it has a new interpreter: {}",
        outcome.show()
    );
    Ok(())
}

fn prepare_variables(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    for name in [
        "PYTHONHASHSEED",
        "LC_ALL",
        "MALLOC_ARENA_MAX",
        "NO_COLOR",
        "HOME",
    ] {
        let request = with(
            python("1"),
            &json!({"op_id": 1, "prepare": true, "env_vars": { name: "1" }}),
        );
        ends_with_error(client.run(&request)?, "env_var_error")?;
    }
    Ok(())
}

fn fresh(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let request = with(
        shell("echo $CONFORMANCE_A"),
        &json!({"op_id": 1, "fresh": true, "env_vars": {"CONFORMANCE_A": "b"}}),
    );
    let outcome = succeed(client.run(&request)?)?;
    ensure!(
        outcome.out() == "b\n" && outcome.end.number("spawn_ms").is_some(),
        "{}",
        outcome.show()
    );

    // A variable that acts at a start needs no `fresh`.
    let request = with(
        python("print(hash('a'))"),
        &json!({"op_id": 1, "env_vars": {"PYTHONHASHSEED": "1"}}),
    );
    let first = succeed(client.run(&request)?)?.out();
    let second = succeed(client.run(&request)?)?.out();
    ensure!(
        first == second,
        "PYTHONHASHSEED had no effect: {first} and {second}"
    );
    Ok(())
}
