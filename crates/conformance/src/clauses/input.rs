//! Input, arguments, values, working directory.

use serde_json::json;

use super::lab::{Clause, Lab, ends_with_error, python, shell, succeed, with};
use crate::client::{Check, ensure};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "INPUT-1",
        1,
        "a program reads the bytes of `stdin` up to `eof`",
        text_and_eof,
    ),
    Clause::new(
        "INPUT-2",
        1,
        "`stdin` in a request needs an `op_id`",
        needs_op_id,
    ),
    Clause::new("INPUT-3", 1, "`data` carries bytes in frames", frames),
    Clause::new(
        "INPUT-4",
        1,
        "`data` needs `raw_frames`, and a rejected frame is skipped",
        rejected_frames,
    ),
    Clause::new(
        "INPUT-5",
        1,
        "a terminal reads the end of input as Ctrl-D",
        terminal_eof,
    ),
    Clause::new(
        "VALUE-1",
        1,
        "with `display`, values arrive as lines of JSON on `result`",
        values,
    ),
    Clause::new("ARGS-1", 1, "`args` are the arguments of the program", args),
    Clause::new(
        "CWD-1",
        1,
        "`cwd` applies to one exec, and may start at the home directory",
        cwd,
    ),
];

fn text_and_eof(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let cat = with(shell("cat"), &json!({"op_id": 1, "stdin": true}));
    client.send(&cat)?;
    for request in [
        json!({"action": "stdin", "op_id": 1, "chunk": "ü\n"}),
        json!({"action": "stdin", "op_id": 1, "chunk": {"encoding": "base64", "data": "/wA="}}),
        json!({"action": "stdin", "op_id": 1, "chunk": "end", "eof": true}),
    ] {
        client.send(&request)?;
    }
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.stdout == b"\xc3\xbc\n\xff\0end",
        "{}",
        outcome.show()
    );

    client.send(&cat)?;
    client.send(&json!({"action": "stdin", "op_id": 1, "eof": true}))?;
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.stdout.is_empty(),
        "without input: {}",
        outcome.show()
    );
    Ok(())
}

fn needs_op_id(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    client
        .ask(&with(shell("cat"), &json!({"stdin": true})))?
        .expect_error("request_error")?;
    client.ping()
}

fn frames(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["raw_frames"])?;
    client.send(&with(shell("cat"), &json!({"op_id": 1, "stdin": true})))?;
    // Newlines and requests within a frame are bytes.
    let part = b"\n{\"action\":\"ping\"}\n\xff";
    client.send(&json!({"action": "data", "op_id": 1, "len": part.len()}))?;
    client.write(part)?;
    let long = vec![b'x'; 65_536];
    client.send(&json!({"action": "data", "op_id": 1, "len": long.len(), "eof": true}))?;
    client.write(&long)?;

    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.stdout == [&part[..], &long].concat(),
        "{}",
        outcome.show()
    );
    Ok(())
}

fn rejected_frames(lab: &Lab<'_>) -> Check {
    let frame = json!({"action": "data", "op_id": 1, "len": 18});
    let bytes = b"{\"action\":\"dance\"}";

    // Without the feature.
    let mut client = lab.with(&["cancel"])?;
    client.send(&with(shell("cat"), &json!({"op_id": 1, "stdin": true})))?;
    client.send(&frame)?;
    client.write(bytes)?;
    client.receive()?.expect("error")?;
    client.ping()?;

    // Of no operation, and longer than a frame may be.
    let mut client = lab.with(&["raw_frames", "cancel"])?;
    client.send(&frame)?;
    client.write(bytes)?;
    client.ping()?;

    client.send(&with(shell("cat"), &json!({"op_id": 1, "stdin": true})))?;
    let long = 65_537;
    client.send(&json!({"action": "data", "op_id": 1, "len": long}))?;
    client.write(&vec![b'\n'; long])?;
    client.receive()?.expect("error")?;
    client.ping()?;

    client.send(&json!({"action": "stdin", "op_id": 1, "chunk": "rest", "eof": true}))?;
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.out() == "rest",
        "the program continues: {}",
        outcome.show()
    );
    Ok(())
}

fn terminal_eof(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["processes"])?;
    let spawn = json!({"action": "spawn", "argv": ["sh", "-c", "stty -echo; echo ready; cat; echo end"], "op_id": 1,
        "stdin": true, "pty": {"rows": 24, "cols": 80}});
    client.send(&spawn)?;
    client.receive()?.expect("started")?;
    client.receive()?.expect("stdout")?;
    client.send(&json!({"action": "stdin", "op_id": 1, "chunk": "line\n", "eof": true}))?;
    let outcome = succeed(client.collect(Some(1))?)?;
    ensure!(
        outcome.out().replace("\r\n", "\n").ends_with("line\nend\n"),
        "{}",
        outcome.show()
    );
    Ok(())
}

fn values(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let request = with(
        python("display('shown')\n6 * 7"),
        &json!({"op_id": 1, "display": true}),
    );
    let outcome = succeed(client.run(&request)?)?;
    let values = outcome.values()?;
    let texts: Vec<_> = values
        .iter()
        .map(|value| value["text/plain"].as_str().unwrap_or(""))
        .collect();
    ensure!(texts == ["'shown'", "42"], "the values: {values:?}");

    let outcome = succeed(client.run(&with(python("6 * 7"), &json!({"op_id": 1})))?)?;
    ensure!(
        outcome.results.is_empty(),
        "without `display`: {}",
        outcome.show()
    );
    Ok(())
}

fn args(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let args = json!({"op_id": 1, "args": ["a b", "", "ü", "-x"]});
    let outcome = succeed(client.run(&with(python("import sys; print(sys.argv[1:])"), &args))?)?;
    ensure!(
        outcome.out() == "['a b', '', 'ü', '-x']\n",
        "Python: {}",
        outcome.show()
    );
    let outcome = succeed(client.run(&with(shell("printf '<%s>' \"$@\""), &args))?)?;
    ensure!(
        outcome.out() == "<a b><><ü><-x>",
        "the shell: {}",
        outcome.show()
    );

    let nul = json!({"op_id": 1, "args": ["a\0b"]});
    ends_with_error(client.run(&with(shell("true"), &nul))?, "request_error").map(drop)
}

fn cwd(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    let pwd = |client: &mut crate::client::Connection, cwd: &str| -> Check<String> {
        let outcome =
            succeed(client.run(&with(shell("pwd -P"), &json!({"op_id": 1, "cwd": cwd})))?)?;
        Ok(outcome.out().trim_end().to_owned())
    };
    ensure!(pwd(&mut client, "/usr")? == "/usr", "an absolute path");

    let outcome = succeed(client.run(&with(shell("pwd -P"), &json!({"op_id": 1})))?)?;
    let home = outcome.out().trim_end().to_owned();
    ensure!(home != "/usr", "the next exec has it, too");

    let name = &lab.tag;
    succeed(client.run(&with(shell(&format!("mkdir {name}")), &json!({"op_id": 1})))?)?;
    let found = pwd(&mut client, name)?;
    succeed(client.run(&with(shell(&format!("rmdir {name}")), &json!({"op_id": 1})))?)?;
    ensure!(
        found == format!("{home}/{name}"),
        "a relative path from {home}: {found}"
    );
    Ok(())
}
