//! Contexts: interpreters that keep their state.

use serde_json::{Value, json};

use crate::client::{Check, Connection, Outcome, ensure, not_offered};
use crate::lab::{Clause, Lab, ends_with, ends_with_error, exec, python, shell, succeed, with};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new("CTX-1", 1, "a context keeps its state", state_stays),
    Clause::new("CTX-2", 1, "contexts outlive the connection", outlives),
    Clause::new(
        "CTX-3",
        1,
        "`context`, `prepare` and `fresh` exclude each other",
        exclusive,
    ),
    Clause::new("CTX-4", 1, "a context has one language", one_language),
    Clause::new(
        "CTX-5",
        1,
        "execs of one context run in order; a waiting one is `queued`, then `started`",
        in_order,
    ),
    Clause::new(
        "CTX-6",
        1,
        "`close_context` ends a context, and is a `busy_error` while an exec runs",
        close,
    ),
    Clause::new(
        "CTX-7",
        1,
        "`env_vars` apply to their exec; hidden values are restored",
        variables,
    ),
    Clause::new(
        "CTX-8",
        1,
        "`timeout` and `cancel` interrupt the exec and keep the state",
        interrupts,
    ),
    Clause::new(
        "CTX-9",
        1,
        "if the interpreter ends, `detail` says so, and the next exec starts a new one",
        lost_state,
    ),
    Clause::new(
        "CTX-10",
        1,
        "`args` replace those of earlier execs, and stay",
        args_stay,
    ),
    Clause::new(
        "CTX-11",
        1,
        "a name has letters, digits, `.`, `_` and `-`, and is neither `.` nor `..`",
        names,
    ),
    Clause::new(
        "PY-1",
        1,
        "errors and `sys.exit` end the exec and keep the state",
        python_errors,
    ),
    Clause::new(
        "PY-2",
        1,
        "the code of each exec has its own file name",
        file_names,
    ),
    Clause::new(
        "PY-3",
        1,
        "`await` may be used at the top level",
        top_level_await,
    ),
    Clause::new(
        "PY-4",
        1,
        "with `display`, the value of the last expression is also `_`",
        last_value,
    ),
    Clause::new(
        "PY-5",
        1,
        "closed standard streams are there again",
        closed_streams,
    ),
    Clause::new(
        "JS-1",
        1,
        "declarations stay and may be declared again",
        javascript_declarations,
    ),
    Clause::new(
        "JS-2",
        1,
        "an exec ends when nothing is pending",
        javascript_pending,
    ),
    Clause::new(
        "JS-3",
        1,
        "`process.exit` ends the exec and keeps the state",
        javascript_exit,
    ),
    Clause::new("SH-1", 1, "`exit` ends the interpreter", shell_exit),
    Clause::new("SH-2", 1, "`$0` is `main.sh`", shell_name),
];

/// A context of one check. It is closed at the end of the check.
struct Session {
    client: Connection,
    name: String,
}

impl Session {
    fn open(lab: &Lab<'_>) -> Check<Self> {
        let client = lab.with(&["contexts", "cancel"])?;
        Ok(Self {
            client,
            name: lab.tag.clone(),
        })
    }

    fn request(&self, exec: Value) -> Value {
        with(exec, &json!({"context": self.name, "op_id": 1}))
    }

    fn run(&mut self, exec: Value) -> Check<Outcome> {
        let request = self.request(exec);
        self.client.run(&request)
    }

    /// Runs code that must succeed, and returns its standard output.
    fn output(&mut self, exec: Value) -> Check<String> {
        Ok(succeed(self.run(exec)?)?.out())
    }

    fn python(&mut self, code: &str) -> Check<String> {
        self.output(python(code))
    }

    fn close(mut self) -> Check {
        self.client
            .ask(&json!({"action": "close_context", "context": self.name}))?
            .expect("done")
            .map(drop)
    }
}

fn state_stays(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("import math, os\nx = 41\ndef f(): return x + 1\nos.chdir('/usr')")?;
    let seen = session.python("print(f(), math.pi > 3, os.getcwd())")?;
    ensure!(seen == "42 True /usr\n", "the next exec: {seen:?}");
    session.close()
}

fn outlives(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("x = 5")?;
    drop(session);
    let mut session = Session::open(lab)?;
    let seen = session.python("print(x)")?;
    ensure!(seen == "5\n", "on the next connection: {seen:?}");
    session.close()
}

fn exclusive(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["contexts"])?;
    for fields in [
        json!({"context": lab.tag, "prepare": true}),
        json!({"context": lab.tag, "fresh": true}),
        json!({"prepare": true, "fresh": true}),
    ] {
        ends_with_error(client.run(&with(python("1"), &fields))?, "request_error")?;
    }
    Ok(())
}

fn one_language(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("x = 5")?;
    ends_with_error(session.run(shell("true"))?, "request_error")?;
    let seen = session.python("print(x)")?;
    ensure!(seen == "5\n", "afterwards: {seen:?}");
    session.close()
}

fn in_order(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("import time\nseen = []")?;
    for id in 1..4 {
        let request = session.request(python(&format!(
            "time.sleep(0.2); seen.append({id}); print(seen)"
        )));
        session.client.send(&with(request, &json!({"op_id": id})))?;
    }

    let first = session.client.collect(Some(1))?;
    ensure!(
        first.out() == "[1]\n" && first.others.is_empty(),
        "the first exec: {}",
        first.show()
    );
    for (id, seen) in [(2, "[1, 2]\n"), (3, "[1, 2, 3]\n")] {
        let outcome = session.client.collect(Some(id))?;
        let kinds: Vec<_> = outcome
            .others
            .iter()
            .map(crate::client::Message::kind)
            .collect();
        ensure!(
            kinds == ["queued", "started"],
            "exec {id} was answered by {kinds:?}"
        );
        ensure!(outcome.out() == seen, "exec {id}: {}", outcome.show());
    }
    session.close()
}

fn close(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("x = 5")?;
    let close = json!({"action": "close_context", "context": session.name});

    let busy = session.request(shell(""));
    session.client.send(&with(
        busy,
        &json!({"language": "python", "code": "print(1, flush=True)\nimport time; time.sleep(60)"}),
    ))?;
    session.client.receive()?.expect("stdout")?;
    session.client.ask(&close)?.expect_error("busy_error")?;
    session
        .client
        .send(&json!({"action": "cancel", "op_id": 1}))?;
    session.client.collect(Some(1))?;

    session.client.ask(&close)?.expect("done")?;
    let seen = session.python("print('x' in globals())")?;
    ensure!(seen == "False\n", "after it was closed: {seen:?}");
    session.close()
}

fn variables(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    let read = "import os; print(os.environ.get('CONFORMANCE_A'))";
    session.python("import os; os.environ['CONFORMANCE_A'] = 'own'")?;
    let seen = session.output(with(
        python(read),
        &json!({"env_vars": {"CONFORMANCE_A": "b"}}),
    ))?;
    ensure!(seen == "b\n", "in the exec: {seen:?}");
    let seen = session.python(read)?;
    ensure!(seen == "own\n", "after it: {seen:?}");
    session.close()
}

fn interrupts(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("import time\nx = 5")?;

    let outcome = session.run(with(python("time.sleep(60)"), &json!({"timeout": 1})))?;
    ensure!(
        outcome.ended_by() == "timeout" && outcome.exit_code() == Some(124),
        "{}",
        outcome.show()
    );

    let request = session.request(python("print(1, flush=True); time.sleep(60)"));
    session.client.send(&request)?;
    session.client.receive()?.expect("stdout")?;
    session
        .client
        .send(&json!({"action": "cancel", "op_id": 1}))?;
    let outcome = session.client.collect(Some(1))?;
    ensure!(
        outcome.ended_by() == "cancelled" && outcome.exit_code() == Some(130),
        "{}",
        outcome.show()
    );

    let seen = session.python("print(x)")?;
    ensure!(seen == "5\n", "afterwards: {seen:?}");
    session.close()
}

fn lost_state(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("x = 5")?;
    let outcome = ends_with(session.run(python("import os; os._exit(7)"))?, 7)?;
    ensure!(
        outcome.evidence("detail").is_string(),
        "there is no `detail`: {}",
        outcome.show()
    );
    let seen = session.python("print('x' in globals())")?;
    ensure!(seen == "False\n", "the next exec: {seen:?}");
    session.close()
}

fn args_stay(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    let read = python("import sys; print(sys.argv[1:])");
    for (args, expected) in [
        (json!({"args": ["a"]}), "['a']\n"),
        (json!({}), "['a']\n"),
        (json!({"args": ["b", "c"]}), "['b', 'c']\n"),
    ] {
        let seen = session.output(with(read.clone(), &args))?;
        ensure!(seen == expected, "{args}: {seen:?}");
    }
    session.close()
}

fn names(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["contexts"])?;
    let exec = |name: &str| with(shell("true"), &json!({ "context": name }));
    let close = |name: &str| json!({"action": "close_context", "context": name});

    for name in [format!("..{}", lab.tag), format!("AZ.az_09-{}", lab.tag)] {
        succeed(client.run(&exec(&name))?)?;
        client.ask(&close(&name))?.expect("done")?;
    }

    for name in [
        ".", "..", "a/b", "../a", "a b", "a\n", "a\0", "a\\b", "a%2e", "ä",
    ] {
        ends_with_error(client.run(&exec(name))?, "request_error")?;
        client.ask(&close(name))?.expect_error("request_error")?;
    }
    Ok(())
}

fn python_errors(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.python("x = 5")?;
    for (code, exit_code) in [
        ("raise ValueError('no')", 1),
        ("def", 1),
        ("import sys; sys.exit(7)", 7),
        ("exit('text')", 1),
    ] {
        let outcome = ends_with(session.run(python(code))?, exit_code)?;
        ensure!(outcome.ended_by() == "exited", "{code}: {}", outcome.show());
    }
    let seen = session.python("print(x)")?;
    ensure!(seen == "5\n", "afterwards: {seen:?}");
    session.close()
}

fn file_names(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    for number in 1..3 {
        let outcome = ends_with(session.run(python("\n1/0"))?, 1)?;
        let place = format!("File \"exec-{number}.py\", line 2");
        ensure!(
            outcome.err().contains(&place),
            "no {place}: {}",
            outcome.show()
        );
    }
    session.close()
}

fn top_level_await(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    let seen = session.python("import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')")?;
    ensure!(seen == "awaited\n", "{seen:?}");
    session.close()
}

fn last_value(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    let display = |code: &str| with(python(code), &json!({"display": true}));
    let outcome = succeed(session.run(display("20 + 1"))?)?;
    ensure!(
        outcome
            .values()?
            .first()
            .is_some_and(|value| value["text/plain"] == "21"),
        "{}",
        outcome.show()
    );
    let seen = session.python("print(_ * 2)")?;
    ensure!(seen == "42\n", "`_`: {seen:?}");

    let outcome = succeed(session.run(display("None"))?)?;
    ensure!(
        outcome.results.is_empty(),
        "None is displayed: {}",
        outcome.show()
    );
    session.close()
}

fn closed_streams(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.run(python("import sys; sys.stdout.close(); del sys.stderr"))?;
    let outcome = succeed(session.run(python(
        "import sys; print('out'); print('err', file=sys.stderr)",
    ))?)?;
    ensure!(
        outcome.out() == "out\n" && outcome.err() == "err\n",
        "{}",
        outcome.show()
    );
    session.close()
}

/// A session of JavaScript, if the agent has bun.
fn javascript(lab: &Lab<'_>) -> Check<Session> {
    let mut session = Session::open(lab)?;
    let outcome = session.run(exec("javascript", "let x = 5"))?;
    if outcome.end.text("error_type") == "agent_error" {
        not_offered!(
            "the agent has no JavaScript: {}",
            outcome.end.text("message")
        );
    }
    succeed(outcome)?;
    Ok(session)
}

fn javascript_declarations(lab: &Lab<'_>) -> Check {
    let mut session = javascript(lab)?;
    let seen = session.output(exec(
        "javascript",
        "let x: number = x + 1; const y = x; console.log(y)",
    ));
    let seen = match seen {
        Ok(seen) => seen,
        // The first name of a second declaration is undefined until then.
        Err(_) => session.output(exec(
            "javascript",
            "x = x + 1; let z: number = x; console.log(z)",
        ))?,
    };
    ensure!(seen == "6\n" || seen == "NaN\n", "{seen:?}");
    let seen = session.output(exec("javascript", "const x = 7; console.log(x)"))?;
    ensure!(seen == "7\n", "declared again: {seen:?}");
    session.close()
}

fn javascript_pending(lab: &Lab<'_>) -> Check {
    let mut session = javascript(lab)?;
    let seen = session.output(exec(
        "javascript",
        "setTimeout(() => console.log('timer'), 100); console.log('top')",
    ))?;
    ensure!(seen == "top\ntimer\n", "{seen:?}");
    session.close()
}

fn javascript_exit(lab: &Lab<'_>) -> Check {
    let mut session = javascript(lab)?;
    ends_with(session.run(exec("javascript", "process.exit(7)"))?, 7)?;
    let seen = session.output(exec("javascript", "console.log(x)"))?;
    ensure!(seen == "5\n", "afterwards: {seen:?}");
    session.close()
}

fn shell_exit(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    session.output(shell("x=5"))?;
    let outcome = ends_with(session.run(shell("echo $x; exit 7"))?, 7)?;
    ensure!(outcome.out() == "5\n", "{}", outcome.show());
    let seen = session.output(shell("echo [$x]"))?;
    ensure!(seen == "[]\n", "the next exec: {seen:?}");
    session.close()
}

fn shell_name(lab: &Lab<'_>) -> Check {
    let mut session = Session::open(lab)?;
    let seen = session.output(shell("echo ${0##*/} ${BASH_SOURCE[0]##*/}"))?;
    ensure!(seen == "main.sh main.sh\n", "{seen:?}");
    session.close()
}
