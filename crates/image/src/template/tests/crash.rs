//! Writers that are killed. They run in separate processes of this test program.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

const ROOT: &str = "FUMEHOOD_TEST_TEMPLATES";

/// Runs one of the ignored tests below in a separate process, and waits until it reports its start.
fn start(writer: &str, root: &std::path::Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("template::tests::crash::{writer}"))
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "started" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the writer ended");
    }

    (child, output)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn report_start() {
    let mut out = std::io::stdout();
    out.write_all(b"\nstarted\n")
        .and_then(|()| out.flush())
        .unwrap();
}

#[test]
#[ignore = "run by another test"]
fn writes_a_template_without_installing_it() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };

    let templates = open_store(root.as_ref());
    let writer = templates.create(&key("python")).unwrap().unwrap();
    writer
        .write(inputs("python"), &memory(7), b"devices")
        .unwrap();
    report_start();
    // Wait until the parent kills this process or ends itself.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
#[ignore = "run by another test"]
fn writes_and_removes_templates_in_a_loop() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };

    let templates = open_store(root.as_ref());
    report_start();
    // The bound ends the loop if the parent did not.
    for _ in 0..10_000 {
        if let Some(writer) = templates.create(&key("python")).unwrap() {
            writer
                .finish(inputs("python"), &memory(7), b"devices")
                .unwrap();
        }
        templates.prune(0, |_| true).unwrap();
    }
}

#[test]
fn a_reservation_ends_with_its_process() {
    let fixture = fixture();
    let (child, _told) = start(
        "writes_a_template_without_installing_it",
        fixture.directory.path(),
    );
    assert!(fixture.templates.create(&key("python")).unwrap().is_none());
    assert_eq!(fixture.templates.prune(0, |_| false).unwrap().removed, 0);
    assert!(!fixture.is_opened(&key("python")));
    kill(child);
    assert_eq!(
        fixture.names().len(),
        1,
        "the half stays until the next sweep"
    );

    let writer = fixture.templates.create(&key("python")).unwrap().unwrap();
    writer
        .finish(inputs("python"), &memory(7), b"devices")
        .unwrap();

    assert_eq!(fixture.names(), [key("python").to_string()]);
}

/// At any moment, a template that is found is complete, and the rest is swept.
#[test]
fn a_kill_at_any_moment_leaves_no_unfinished_template() {
    const KILLS: u32 = 25;
    let fixture = fixture();

    for n in 0..KILLS {
        let (child, _told) = start(
            "writes_and_removes_templates_in_a_loop",
            fixture.directory.path(),
        );
        // Any moment is fine; these differ.
        std::thread::sleep(Duration::from_micros(u64::from(n) * 700));
        kill(child);
        // Without recorded identities, everything is hashed.
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
