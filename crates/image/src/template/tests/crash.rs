//! Makers that are killed, in processes of their own: this very test program.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

const ROOT: &str = "FUMEHOOD_TEST_TEMPLATES";

/// Runs one of the ignored tests below in a process of its own, and waits for its first word.
fn start(maker: &str, root: &std::path::Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("template::tests::crash::{maker}"))
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut told = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "begun" {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "the maker ended");
    }

    (child, told)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn say_begun() {
    let mut out = std::io::stdout();
    out.write_all(b"\nbegun\n")
        .and_then(|()| out.flush())
        .unwrap();
}

#[test]
#[ignore = "started by another test"]
fn makes_half_and_waits() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };

    let templates = open_store(root.as_ref());
    let draft = templates.create(&key("python")).unwrap().unwrap();
    draft
        .write(inputs("python"), &memory(7), b"devices")
        .unwrap();
    say_begun();
    // Until the parent kills this process, or ends itself.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
#[ignore = "started by another test"]
fn makes_and_removes_without_end() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };

    let templates = open_store(root.as_ref());
    say_begun();
    // The bound ends it when the parent did not.
    for _ in 0..10_000 {
        if let Some(draft) = templates.create(&key("python")).unwrap() {
            draft
                .finish(inputs("python"), &memory(7), b"devices")
                .unwrap();
        }
        templates.prune(0, |_| true).unwrap();
    }
}

#[test]
fn a_makers_right_falls_with_its_process() {
    let fixture = fixture();
    let (child, _told) = start("makes_half_and_waits", fixture.directory.path());
    assert!(fixture.templates.create(&key("python")).unwrap().is_none());
    assert_eq!(fixture.templates.prune(0, |_| false).unwrap().removed, 0);
    assert!(!fixture.is_opened(&key("python")));
    kill(child);
    assert_eq!(
        fixture.names().len(),
        1,
        "the half stays until the next sweep"
    );

    let draft = fixture.templates.create(&key("python")).unwrap().unwrap();
    draft
        .finish(inputs("python"), &memory(7), b"devices")
        .unwrap();

    assert_eq!(fixture.names(), [key("python").to_string()]);
}

/// Whatever the moment, what is found is whole, and the rest is swept.
#[test]
fn a_kill_at_any_moment_leaves_nothing_that_looks_finished() {
    const KILLS: u32 = 25;
    let fixture = fixture();

    for n in 0..KILLS {
        let (child, _told) = start("makes_and_removes_without_end", fixture.directory.path());
        // Any moment will do; these differ.
        std::thread::sleep(Duration::from_micros(u64::from(n) * 700));
        kill(child);
        // Without what is remembered of it, everything is hashed.
        let _ = fs::remove_file(fixture.part(&key("python"), IDENTITY_FILE));
        let there = fixture.templates.path(&key("python")).exists();
        assert_eq!(fixture.is_opened(&key("python")), there, "kill {n}");
        fixture.templates.prune(0, |_| true).unwrap();
        assert!(
            fixture.names().is_empty(),
            "kill {n}: {:?}",
            fixture.names()
        );
    }
}
