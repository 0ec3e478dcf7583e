//! Something is stopped, and continued or killed later.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::fault::{Fault, Promise};
use crate::processes;
use crate::work::Work;

/// A program that ends by itself soon.
const SHORT: &str = "echo up; sleep 1; echo end";

/// The time for which something is stopped.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::up("stop-and-continue-qemu", Work::Stream(SHORT), |t| {
            t.signal_qemu(Signal::STOP)?;
            thread::sleep(PAUSE);
            t.signal_qemu(Signal::CONT)
        })
        .promise(Promise::causes_of(&["exited"]).says("end\\n"))
        .within(10),
        Fault::up("stop-and-kill-qemu", Work::Stream(SHORT), |t| {
            t.signal_qemu(Signal::STOP)?;
            thread::sleep(PAUSE);
            t.signal_qemu(Signal::KILL)
        })
        .promise(Promise::causes_of(&["agent_lost", "lost"]))
        .within(5),
        Fault::up(
            "stop-and-continue-command",
            Work::Command(&[], SHORT),
            |t| {
                t.signal_command(Signal::STOP)?;
                thread::sleep(PAUSE);
                t.signal_command(Signal::CONT)
            },
        )
        .promise(Promise::exits(&[0]).says("end\n"))
        .within(10),
        Fault::up(
            "stop-and-continue-server",
            Work::ThroughServer(SHORT),
            |t| {
                processes::signal(t.server, Signal::STOP);
                thread::sleep(PAUSE);
                processes::signal(t.server, Signal::CONT);
                Ok(())
            },
        )
        .promise(Promise::exits(&[0]).says("end\n"))
        .within(10),
        Fault::up(
            "stop-qemu-until-timeout",
            Work::Command(&["-t", "2"], SHORT),
            |t| t.signal_qemu(Signal::STOP),
        )
        .promise(Promise::exits(&[124]))
        .within(25),
    ]
}
