//! Starts a real agent on this machine, for each of the test programs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts an agent at a free port of loopback. Returns its process and its address, `127.0.0.1:PORT`.
pub(crate) fn start_listening(command: &mut Command, arguments: &[&str]) -> (Child, String) {
    let mut child = command
        .args(["--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .expect("no address");

    (child, address.to_owned())
}
