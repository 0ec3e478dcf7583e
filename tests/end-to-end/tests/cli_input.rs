//! Standard input of `fumehood run`: what a local interpreter would read reaches the program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};

use fumehood_end_to_end::{finish, finish_child, fumehood};

const READ_ALL: &str = "import sys; print(repr(sys.stdin.read()))";

fn run(args: &[&str]) -> Command {
    let mut command = fumehood();
    command
        .arg("run")
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn stdout_of(mut command: Command, input: impl Into<Stdio>) -> String {
    let child = command.stdin(input).spawn().unwrap();
    let output = finish_child(child);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pipes_and_files_are_passed_on_and_devices_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program.py");
    std::fs::write(&program, READ_ALL).unwrap();
    let program = program.to_str().unwrap();

    // A pipe, for a file and for code.
    for args in [&[program] as &[&str], &["-l", "py", "-c", READ_ALL]] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"one\ntwo").unwrap();
        drop(writer);
        assert_eq!(stdout_of(run(args), reader), "'one\\ntwo'\n", "{args:?}");
    }

    // The rest of a file, whose position does not move.
    let text = dir.path().join("text");
    std::fs::write(&text, "one\ntwo\n").unwrap();
    let mut file = File::open(&text).unwrap();
    file.read_exact(&mut [0; 4]).unwrap();
    let input = file.try_clone().unwrap();
    assert_eq!(stdout_of(run(&[program]), input), "'two\\n'\n");
    assert_eq!(file.stream_position().unwrap(), 4);

    // Devices, and --no-stdin.
    assert_eq!(stdout_of(run(&[program]), Stdio::null()), "''\n");
    let input = file.try_clone().unwrap();
    assert_eq!(stdout_of(run(&["-n", program]), input), "''\n");
}

#[test]
fn a_run_ends_with_its_program_though_the_input_stays_open() {
    let (reader, writer) = std::io::pipe().unwrap();
    let code = "console.log(1)";
    assert_eq!(stdout_of(run(&["-l", "ts", "-c", code]), reader), "1\n");
    drop(writer);
}

#[test]
fn input_that_the_program_does_not_read_ends_with_the_run() {
    // More than all buffers on the way hold, so that something is still unread at the end.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&vec![b'x'; 16 << 20]));
    let code = "head -c 3; exit 0";
    assert_eq!(stdout_of(run(&["-l", "bash", "-c", code]), reader), "xxx");
    assert!(writing.join().unwrap().is_err(), "the pipe has no reader");
}

#[test]
fn standard_input_cannot_be_program_and_input() {
    let mut command = fumehood();
    command.args(["run", "-i", "-l", "python", "-"]);
    let output = finish(command);
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be both"));
}
