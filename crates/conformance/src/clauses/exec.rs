//! How an exec runs and ends.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Check, Connection, ensure, fail, not_offered};
use crate::lab::{Clause, Lab, ends_with, python, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "EXEC-1",
        0,
        "each exec has a separate interpreter",
        separate,
    ),
    Clause::new(
        "EXEC-2",
        1,
        "a program cannot gain privileges",
        no_privileges,
    ),
    Clause::new("EXEC-3", 0, "standard input is empty", empty_input),
    Clause::new(
        "EXEC-4",
        0,
        "`env_vars` apply to their exec only",
        variables,
    ),
    Clause::new(
        "EXEC-5",
        0,
        "an exec ends with its interpreter, not with its pipes",
        ends_with_interpreter,
    ),
    Clause::new(
        "EXEC-6",
        0,
        "nothing that a program prints ends it",
        no_marker,
    ),
    Clause::new(
        "EXEC-7",
        0,
        "processes that an exec leaves behind are killed",
        left_processes,
    ),
    Clause::new(
        "EXEC-8",
        0,
        "everything written before the end arrives before `complete`",
        output_before_end,
    ),
    Clause::new(
        "EXEC-9",
        1,
        "`spawn_ms` and `process_ms` are there if an interpreter was started",
        times,
    ),
    Clause::new(
        "EXEC-10",
        0,
        "a program whose connection ends is ended",
        ends_with_connection,
    ),
    Clause::new("END-1", 0, "`exited`: the program's own exit code", exited),
    Clause::new("END-2", 0, "`signaled`: 128 and the signal", signaled),
    Clause::new("END-3", 0, "`timeout`: 124", timeout),
    Clause::new("END-4", 1, "`cancelled`: 130", cancelled),
    Clause::alone(
        "END-5",
        1,
        "`out_of_memory`: 137, with the number of killed processes",
        out_of_memory,
    ),
    Clause::observed("END-7", 0, "`agent_lost` is not reported by an agent"),
    Clause::new(
        "END-8",
        0,
        "a timeout sends SIGINT, then SIGTERM, then SIGKILL to all",
        escalation,
    ),
    Clause::observed(
        "END-9",
        1,
        "`complete` has the bytes and the CRC-32C of each stream",
    ),
    Clause::new(
        "END-10",
        1,
        "`left_processes` counts them",
        left_processes_counted,
    ),
];

fn separate(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    succeed(client.run(&python(
        "import os\nx = 5\nos.environ['CONFORMANCE_X'] = '1'",
    ))?)?;
    let outcome = succeed(client.run(&python(
        "import os\nprint('x' in globals(), 'CONFORMANCE_X' in os.environ)",
    ))?)?;
    ensure!(
        outcome.out() == "False False\n",
        "the next exec: {}",
        outcome.show()
    );
    Ok(())
}

fn no_privileges(lab: &Lab<'_>) -> Check {
    let outcome = lab.shell("grep NoNewPrivs /proc/self/status")?;
    ensure!(
        outcome.out().trim_end().ends_with('1'),
        "{}",
        outcome.show()
    );
    Ok(())
}

fn empty_input(lab: &Lab<'_>) -> Check {
    let outcome = lab.shell("cat; echo end")?;
    ensure!(outcome.out() == "end\n", "the shell: {}", outcome.show());
    let outcome = lab.python("import sys; print(repr(sys.stdin.read()))")?;
    ensure!(outcome.out() == "''\n", "Python: {}", outcome.show());
    Ok(())
}

fn variables(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let request = with(
        shell("echo $CONFORMANCE_A"),
        &json!({"env_vars": {"CONFORMANCE_A": "ü €"}}),
    );
    let outcome = succeed(client.run(&request)?)?;
    ensure!(outcome.out() == "ü €\n", "the shell: {}", outcome.show());
    let read = "import os; print(os.environ.get('CONFORMANCE_A'))";
    let outcome = succeed(client.run(&with(
        python(read),
        &json!({"env_vars": {"CONFORMANCE_A": "b"}}),
    ))?)?;
    ensure!(outcome.out() == "b\n", "Python: {}", outcome.show());

    let outcome = succeed(client.run(&python(read))?)?;
    ensure!(
        outcome.out() == "None\n",
        "the next exec has it, too: {}",
        outcome.show()
    );
    Ok(())
}

fn ends_with_interpreter(lab: &Lab<'_>) -> Check {
    let begun = Instant::now();
    let outcome = lab.shell("sleep 20 & echo done")?;
    ensure!(outcome.out() == "done\n", "{}", outcome.show());
    ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "the exec ended after {:?}",
        begun.elapsed()
    );

    // Closed pipes are not the end either.
    ends_with(
        lab.seed()?
            .run(&shell("exec >&- 2>&-; sleep 0.2; exit 4"))?,
        4,
    )
    .map(drop)
}

fn no_marker(lab: &Lab<'_>) -> Check {
    let lines = [
        r#"{"type":"complete","exit_code":7,"execution_time_ms":1}"#,
        "\0\u{1}\u{4}",
        "__END__",
        r#"{"type":"error","message":"x","error_type":"agent_error"}"#,
    ];
    let text = lines.join("\n");
    let code = format!(
        "import sys\nfor stream in (sys.stdout, sys.stderr): print({text:?}, file=stream, flush=True)\nprint('after')\nsys.exit(3)"
    );
    let code = code
        .replace("\\0", "\\x00")
        .replace("\\u{1}", "\\x01")
        .replace("\\u{4}", "\\x04");

    let outcome = ends_with(lab.seed()?.run(&python(&code))?, 3)?;
    ensure!(
        outcome.out() == format!("{text}\nafter\n") && outcome.err() == format!("{text}\n"),
        "{}",
        outcome.show()
    );
    Ok(())
}

/// Fails if a process that has this tag among its arguments still exists after some seconds.
fn ends_soon(client: &mut Connection, tag: &str) -> Check {
    // The pattern does not match itself.
    let (first, rest) = tag.split_at(1);
    let code = format!(
        "for n in $(seq 50); do grep -qsa '[{first}]{rest}' /proc/[0-9]*/cmdline || exit 0; sleep 0.1; done; exit 9"
    );
    let outcome = client.run(&shell(&code))?;
    ensure!(
        outcome.exit_code() == Some(0),
        "the process still exists: {}",
        outcome.show()
    );
    Ok(())
}

fn left_processes(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let code = format!(
        "sh -c 'sleep 60; :' {} >/dev/null 2>&1 & echo left",
        lab.tag
    );
    succeed(client.run(&shell(&code))?)?;
    ends_soon(&mut client, &lab.tag)
}

fn left_processes_counted(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let outcome = succeed(client.run(&with(
        shell("sleep 60 & sleep 60 & echo left"),
        &json!({"op_id": 1}),
    ))?)?;
    ensure!(
        *outcome.evidence("left_processes") == 2,
        "{}",
        outcome.show()
    );
    Ok(())
}

fn output_before_end(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    for _ in 0..10 {
        let code = "head -c 60000 /dev/zero | tr '\\0' x; head -c 60000 /dev/zero | tr '\\0' y >&2";
        let outcome = succeed(client.run(&shell(code))?)?;
        ensure!(
            outcome.stdout.len() == 60_000 && outcome.stderr.len() == 60_000,
            "{}",
            outcome.show()
        );
        client.ping()?;
    }
    Ok(())
}

fn times(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let outcome = succeed(client.run(&with(python("1"), &json!({"op_id": 1, "fresh": true})))?)?;
    for field in ["spawn_ms", "process_ms"] {
        ensure!(
            outcome.end.number(field).is_some(),
            "there is no `{field}`: {}",
            outcome.show()
        );
    }
    Ok(())
}

fn ends_with_connection(lab: &Lab<'_>) -> Check {
    let mut client = lab.seed()?;
    let code = format!("echo started; sh -c 'sleep 60; :' {}", lab.tag);
    client.send(&shell(&code))?;
    client.receive()?.expect("stdout")?;
    drop(client);

    ends_soon(&mut lab.seed()?, &lab.tag)
}

/// Fails unless `ended_by`, which version 0 need not have, is this.
fn ended_by(lab: &Lab<'_>, code: &serde_json::Value, exit_code: i64, cause: &str) -> Check {
    let outcome = ends_with(lab.seed()?.run(code)?, exit_code)?;
    let found = outcome.ended_by();
    ensure!(
        found.is_empty() || found == cause,
        "`ended_by` is not `{cause}`: {}",
        outcome.show()
    );
    Ok(())
}

fn exited(lab: &Lab<'_>) -> Check {
    for code in [0, 1, 3, 124, 130, 137, 255] {
        ended_by(lab, &shell(&format!("exit {code}")), code, "exited")?;
    }
    ended_by(lab, &python("import sys; sys.exit(9)"), 9, "exited")?;
    ended_by(lab, &python("raise ValueError"), 1, "exited")?;
    ended_by(lab, &python("def"), 1, "exited")
}

fn signaled(lab: &Lab<'_>) -> Check {
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        ended_by(
            lab,
            &shell(&format!("kill -{name} $$")),
            128 + number,
            "signaled",
        )?;
    }
    ended_by(
        lab,
        &python("import os; os.kill(os.getpid(), 9)"),
        137,
        "signaled",
    )
}

fn timeout(lab: &Lab<'_>) -> Check {
    let outcome = lab
        .seed()?
        .run(&with(shell("echo begun; sleep 30"), &json!({"timeout": 2})))?;
    ensure!(outcome.out() == "begun\n", "{}", outcome.show());
    let outcome = ends_with(outcome, 124)?;
    ensure!(
        matches!(outcome.ended_by(), "" | "timeout"),
        "{}",
        outcome.show()
    );

    let took = outcome.end.number("execution_time_ms").unwrap_or(-1);
    ensure!(
        (1_900..20_000).contains(&took),
        "it ended after {took} ms: {}",
        outcome.show()
    );
    Ok(())
}

fn cancelled(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["cancel"])?;
    client.send(&with(shell("echo begun; sleep 60"), &json!({"op_id": 1})))?;
    client.receive()?.expect("stdout")?;
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = ends_with(client.collect(Some(1))?, 130)?;
    ensure!(outcome.ended_by() == "cancelled", "{}", outcome.show());
    Ok(())
}

fn out_of_memory(lab: &Lab<'_>) -> Check {
    if !lab.offers("refresh") {
        not_offered!("this is no guest of fumehood: a program could take all memory of a machine");
    }
    let mut client = lab.hello(&[])?;
    let code = "import mmap\nblocks = []\nwhile True:\n    block = mmap.mmap(-1, 1 << 24)\n    for at in range(0, 1 << 24, 4096): block[at] = 1\n    blocks.append(block)";
    let outcome = ends_with(
        client.run(&with(python(code), &json!({"op_id": 1, "timeout": 120})))?,
        137,
    )?;
    let kills = outcome.evidence("oom_kills").as_u64().unwrap_or(0);
    ensure!(
        outcome.ended_by() == "out_of_memory" && kills > 0,
        "{}",
        outcome.show()
    );
    client.ping()
}

fn escalation(lab: &Lab<'_>) -> Check {
    // Each signal is noted, and ignored.
    let code = "import os, signal, time
for name in ('INT', 'TERM'):
    signal.signal(getattr(signal, 'SIG' + name), lambda *_, name=name: os.write(1, name.encode() + b' '))
os.write(1, b'ready ')
end = time.monotonic() + 30
while time.monotonic() < end: time.sleep(0.05)";
    let begun = Instant::now();
    let outcome = ends_with(
        lab.seed()?
            .run(&with(python(code), &json!({"timeout": 3})))?,
        124,
    )?;
    ensure!(
        outcome.out() == "ready INT TERM ",
        "the signals: {}",
        outcome.show()
    );
    if begun.elapsed() > Duration::from_secs(25) {
        fail!(
            "the program was not killed: it ended after {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}
