//! Ends programs of this process. In a program of its own, since all children of the process are taken for such programs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::{Duration, Instant};

use fumehood_image::terminate_programs;
use rustix::process::Signal;

#[test]
fn children_that_lead_a_group_are_terminated_and_others_are_not() {
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    let mut program = Command::new("sleep")
        .arg("60")
        .process_group(0)
        .spawn()
        .unwrap();

    let start = Instant::now();
    let status = loop {
        terminate_programs();
        if let Some(status) = program.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it still runs");
        std::thread::yield_now();
    };
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));

    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}
