//! Files: write, read, list, change, watch.

use serde_json::{Value, json};

use super::lab::{Clause, Lab, ends_with_error, shell, succeed, with};
use crate::client::{Check, Connection, Outcome, crc32c, ensure, fail};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "FILE-1",
        1,
        "relative paths start at the home directory",
        relative_paths,
    ),
    Clause::new("FILE-2", 1, "`/proc` is excluded", no_proc),
    Clause::new("FILE-3", 1, "writing is atomic", atomic),
    Clause::new(
        "FILE-4",
        1,
        "a link at the path itself is replaced, not followed",
        link_is_replaced,
    ),
    Clause::new("FILE-5", 1, "only regular files are read", regular_files),
    Clause::new(
        "FILE-6",
        1,
        "`transferred` has the bytes and their CRC-32C, in both directions",
        transferred,
    ),
    Clause::new("FILE-7", 1, "`offset` and `len` select a part", part),
    Clause::new(
        "FILE-8",
        1,
        "`depth` includes directories below, and does not follow links",
        listing,
    ),
    Clause::new(
        "FILE-9",
        1,
        "`stat`, `make_dir`, `move` and `remove` do what they say",
        changes,
    ),
    Clause::new(
        "FILE-10",
        1,
        "what the kernel rejects is a `path_error` with its `errno`",
        kernel_errors,
    ),
    Clause::new(
        "FILE-11",
        1,
        "`watch` reports changes, and ends with `cancel`",
        watch,
    ),
    Clause::new(
        "FILE-12",
        1,
        "`watch` ends when its path disappears",
        watched_path_disappears,
    ),
    Clause::new(
        "FILE-13",
        1,
        "`credit` limits the content that is sent",
        credit,
    ),
];

fn request(action: &str, path: &str) -> Value {
    json!({"action": action, "path": path, "op_id": 1})
}

/// Writes a file in two frames.
fn write(client: &mut Connection, path: &str, content: &[u8], fields: &Value) -> Check<Outcome> {
    client.send(&with(request("write_file", path), fields))?;
    let half = content.len() / 2;
    for (part, eof) in [(&content[..half], false), (&content[half..], true)] {
        client.send(&json!({"action": "data", "op_id": 1, "len": part.len(), "eof": eof}))?;
        client.write(part)?;
    }
    client.collect(Some(1))
}

fn written(client: &mut Connection, path: &str, content: &[u8]) -> Check {
    write(client, path, content, &json!({}))?
        .end
        .expect("transferred")
        .map(drop)
}

fn read(client: &mut Connection, path: &str) -> Check<Outcome> {
    client.run(&request("read_file", path))
}

fn remove(client: &mut Connection, path: &str) -> Check {
    client
        .run(&with(request("remove", path), &json!({"recursive": true})))?
        .end
        .expect("done")
        .map(drop)
}

fn run(client: &mut Connection, code: &str) -> Check<String> {
    Ok(succeed(client.run(&with(shell(code), &json!({"op_id": 1})))?)?.out())
}

fn client(lab: &Lab<'_>) -> Check<Connection> {
    lab.with(&["files", "raw_frames", "cancel", "credit"])
}

fn relative_paths(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    written(&mut client, &lab.tag, b"content")?;
    let seen = run(&mut client, &format!("cat {}", lab.tag))?;
    remove(&mut client, &lab.tag)?;
    ensure!(
        seen == "content",
        "a program in its home directory reads {seen:?}"
    );
    Ok(())
}

fn no_proc(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    for path in [
        "/proc/self/status",
        "/proc/1/environ",
        "/proc/self/cwd/x",
        "/tmp/../proc/self/status",
    ] {
        ends_with_error(read(&mut client, path)?, "path_error")?;
        ends_with_error(client.run(&request("stat", path))?, "path_error")?;
    }
    ends_with_error(
        client.run(&request("list_files", "/proc/self"))?,
        "path_error",
    )
    .map(drop)
}

fn atomic(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    written(&mut client, &path, b"old")?;

    client.send(&request("write_file", &path))?;
    client.send(&json!({"action": "stdin", "op_id": 1, "chunk": "new"}))?;
    let seen = succeed(client.run(&with(shell(&format!("cat {path}")), &json!({"op_id": 2})))?)?;
    ensure!(seen.out() == "old", "while it is written: {}", seen.show());

    // Given up: the old content stays, and nothing else.
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    client.collect(Some(1))?;
    let seen = run(
        &mut client,
        &format!("cat {path}; ls -a /tmp | grep -c {}", lab.tag),
    )?;
    ensure!(seen == "old1\n", "after `cancel`: {seen:?}");

    written(&mut client, &path, b"new")?;
    let seen = run(&mut client, &format!("cat {path}"))?;
    remove(&mut client, &path)?;
    ensure!(seen == "new", "afterwards: {seen:?}");
    Ok(())
}

fn link_is_replaced(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    run(
        &mut client,
        &format!("echo target > {path}.target; ln -s {path}.target {path}"),
    )?;
    written(&mut client, &path, b"new")?;
    let seen = run(
        &mut client,
        &format!("test -L {path} && echo link; cat {path} {path}.target; rm {path} {path}.target"),
    )?;
    ensure!(seen == "newtarget\n", "link and target: {seen:?}");
    Ok(())
}

fn regular_files(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    run(&mut client, &format!("mkfifo {path}"))?;
    for other in ["/tmp", "/dev/zero", &path] {
        ends_with_error(read(&mut client, other)?, "path_error")?;
    }
    remove(&mut client, &path)
}

fn transferred(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    let large: Vec<u8> = (0..100_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();

    for content in [&b""[..], b"x", &large] {
        let expect = |message: &crate::client::Message| {
            message.number("bytes") == i64::try_from(content.len()).ok()
                && message.number("crc32c") == Some(i64::from(crc32c(content)))
        };
        let end = write(
            &mut client,
            &path,
            content,
            &json!({"mode": 0o640, "size": content.len()}),
        )?
        .end
        .expect("transferred")?;
        ensure!(
            expect(&end) && end.number("mode") == Some(0o640),
            "written: {}",
            end.show()
        );

        let outcome = read(&mut client, &path)?;
        let end = outcome.end.clone().expect("transferred")?;
        ensure!(
            outcome.stdout == content && expect(&end),
            "read: {}",
            outcome.show()
        );
    }
    remove(&mut client, &path)
}

fn part(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    written(&mut client, &path, b"0123456789")?;
    for (fields, expected) in [
        (json!({"offset": 3}), "3456789"),
        (json!({"offset": 3, "len": 4}), "3456"),
        (json!({"len": 2}), "01"),
        (json!({"len": 0}), ""),
        (json!({"offset": 10}), ""),
        (json!({"offset": 8, "len": 100}), "89"),
        (json!({"offset": 1_000_000_000_000_u64}), ""),
    ] {
        let outcome = client.run(&with(request("read_file", &path), &fields))?;
        let is_transferred = outcome.end.kind() == "transferred";
        ensure!(
            is_transferred && outcome.out() == expected,
            "{fields}: {}",
            outcome.show()
        );
    }
    remove(&mut client, &path)
}

fn listing(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    run(
        &mut client,
        &format!("mkdir -p {path}/a/b/c; echo x > {path}/a/b/file; ln -s /usr {path}/a/link"),
    )?;

    for (fields, expected) in [
        (json!({}), vec!["a"]),
        (json!({"depth": 2}), vec!["a", "b", "link"]),
        (json!({"depth": 9}), vec!["a", "b", "c", "file", "link"]),
    ] {
        let mut names = list(&mut client, &path, &fields)?;
        names.sort();
        ensure!(names == expected, "{fields}: {names:?}");
    }
    remove(&mut client, &path)
}

/// The last components of the listed paths.
fn list(client: &mut Connection, path: &str, fields: &Value) -> Check<Vec<String>> {
    client.send(&with(request("list_files", path), fields))?;
    let mut names = Vec::new();
    loop {
        let entries = client.receive()?.expect("entries")?;
        for entry in entries.field("entries").as_array().into_iter().flatten() {
            let path = entry["path"].as_str().unwrap_or("");
            names.push(path.rsplit('/').next().unwrap_or("").to_owned());
        }
        if *entries.field("last") == true {
            return Ok(names);
        }
    }
}

fn changes(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    let ask =
        |client: &mut Connection, request: Value, kind: &str| client.ask(&request)?.expect(kind);
    let error = |client: &mut Connection, request: Value, errno: i64| -> Check {
        let error = client.ask(&request)?.expect_error("path_error")?;
        ensure!(
            error.number("errno") == Some(errno),
            "errno {errno} was expected: {}",
            error.show()
        );
        Ok(())
    };
    let (not_found, exists, not_empty) = (2, 17, 39);

    let deep = format!("{path}/a/b");
    error(&mut client, request("make_dir", &deep), not_found)?;
    ask(
        &mut client,
        with(
            request("make_dir", &deep),
            &json!({"parents": true, "mode": 0o700}),
        ),
        "done",
    )?;
    let entry = ask(&mut client, request("stat", &deep), "entry")?;
    let entry = entry.field("entry");
    ensure!(
        entry["kind"] == "directory"
            && entry["mode"].as_i64().map(|mode| mode & 0o7777) == Some(0o700),
        "the new directory: {entry}"
    );
    error(&mut client, request("make_dir", &deep), exists)?;

    written(&mut client, &format!("{path}/one"), b"1")?;
    written(&mut client, &format!("{path}/two"), b"2")?;
    let rename = json!({"action": "move", "from": format!("{path}/one"), "to": format!("{path}/two"), "op_id": 1});
    error(&mut client, rename.clone(), exists)?;
    ask(&mut client, with(rename, &json!({"replace": true})), "done")?;
    ensure!(
        read(&mut client, &format!("{path}/two"))?.out() == "1",
        "the file was not moved"
    );
    error(
        &mut client,
        request("stat", &format!("{path}/one")),
        not_found,
    )?;

    error(&mut client, request("remove", &path), not_empty)?;
    ask(
        &mut client,
        with(request("remove", &path), &json!({"recursive": true})),
        "done",
    )?;
    error(&mut client, request("remove", &path), not_found)
}

fn kernel_errors(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    for (action, path, errno) in [
        ("read_file", "/no/such/file", 2),
        ("stat", "/bin/sh/x", 20),
        ("list_files", "/no/such/directory", 2),
        ("watch", "/no/such/directory", 2),
    ] {
        let error = ends_with_error(client.run(&request(action, path))?, "path_error")?;
        ensure!(
            error.number("errno") == Some(errno),
            "`{action}` of {path}: {}",
            error.show()
        );
    }
    let error = ends_with_error(
        client.run(&request("write_file", "/no/such/directory/file"))?,
        "path_error",
    )?;
    ensure!(
        error.number("errno") == Some(2),
        "`write_file`: {}",
        error.show()
    );

    for path in ["", "a\0b"] {
        ends_with_error(client.run(&request("stat", path))?, "path_error")?;
    }
    ends_with_error(
        client.run(&with(request("make_dir", "x"), &json!({"mode": 0o10000})))?,
        "path_error",
    )
    .map(drop)
}

fn watch(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    run(&mut client, &format!("mkdir {path}"))?;
    client.ask(&request("watch", &path))?.expect("watching")?;

    let code = format!("echo x > {path}/file; chmod 600 {path}/file; rm {path}/file");
    succeed(client.run(&with(shell(&code), &json!({"op_id": 2})))?)?;
    let mut missing = vec!["created", "modified", "attributes", "removed"];
    while !missing.is_empty() {
        let change = client.receive_for(Some(1))?.expect("change")?;
        ensure!(
            change.text("path").ends_with("file"),
            "the path: {}",
            change.show()
        );
        missing.retain(|kind| *kind != change.text("kind"));
    }

    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    client.collect(Some(1))?.end.expect("done")?;
    remove(&mut client, &path)
}

fn watched_path_disappears(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    run(&mut client, &format!("mkdir {path}"))?;
    client.ask(&request("watch", &path))?.expect("watching")?;
    succeed(client.run(&with(shell(&format!("rmdir {path}")), &json!({"op_id": 2})))?)?;
    client.collect(Some(1))?.end.expect("done").map(drop)
}

fn credit(lab: &Lab<'_>) -> Check {
    let mut client = client(lab)?;
    let path = format!("/tmp/{}", lab.tag);
    written(&mut client, &path, &[b'x'; 100_000])?;
    client.send(&with(request("read_file", &path), &json!({"credit": 1000})))?;

    let mut outcome = Outcome::default();
    while outcome.stdout.len() < 1000 {
        let message = client.receive()?;
        if outcome.add(message)? {
            fail!("it ended: {}", outcome.show());
        }
    }
    client.ping()?;
    ensure!(
        outcome.stdout.len() == 1000,
        "{} bytes arrived",
        outcome.stdout.len()
    );

    client.send(&json!({"action": "credit", "op_id": 1, "bytes": 1_000_000}))?;
    client.collect_into(&mut outcome, Some(1))?;
    ensure!(
        outcome.stdout.len() == 100_000,
        "{} bytes arrived",
        outcome.stdout.len()
    );
    remove(&mut client, &path)
}
