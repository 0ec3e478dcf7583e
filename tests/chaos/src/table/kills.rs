//! Something is killed.

use rustix::process::Signal;

use crate::fault::{Fault, Promise};
use crate::processes;
use crate::work::{SLEEP, Work};

/// The ends of a run whose VM was lost: an error until the code was sent, an outcome after that.
const LOST: &[&str] = &["lost", "agent_lost", "boot", "protocol"];

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::anytime("kill-command", Work::Command(&["--json"], SLEEP), |t| {
            t.signal_command(Signal::KILL)
        })
        .promise(Promise::exits(&[-9]))
        .within(5),
        Fault::anytime(
            "terminate-command",
            Work::Command(&["--json"], SLEEP),
            |t| t.signal_command(Signal::TERM),
        )
        // Before its handlers are installed, the signal itself ends it.
        .promise(Promise::exits(&[130, -15]))
        .within(10),
        Fault::anytime(
            "kill-launcher-of-command",
            Work::Command(&["--json"], SLEEP),
            |t| t.kill_first_child(),
        )
        .promise(Promise::exits(&[125]).causes(LOST))
        .within(10),
        Fault::up("kill-qemu-of-command", Work::Command(&[], SLEEP), |t| {
            t.signal_qemu(Signal::KILL)
        })
        .promise(Promise::exits(&[125]))
        .within(5),
        Fault::up(
            "kill-command-through-server",
            Work::ThroughServer(SLEEP),
            |t| t.signal_command(Signal::KILL),
        )
        .promise(Promise::exits(&[-9]))
        .within(5),
        Fault::anytime("kill-launcher-of-server", Work::Request(SLEEP), |t| {
            t.kill_first_child()
        })
        .promise(Promise::statuses(&[200, 410, 502, 503]).causes(LOST))
        .within(10),
        Fault::up("kill-qemu-of-run", Work::Stream(SLEEP), |t| {
            t.signal_qemu(Signal::KILL)
        })
        .promise(Promise::causes_of(LOST))
        .within(5),
        Fault::up("kill-qemu-of-session", Work::Session(SLEEP), |t| {
            t.signal_qemu(Signal::KILL)
        })
        .promise(Promise::causes_of(LOST))
        .within(5),
        Fault::anytime("kill-server", Work::Request(SLEEP), |t| {
            processes::signal(t.server, Signal::KILL);
            Ok(())
        })
        .promise(Promise::causes_of(&["connection"]))
        .within(5)
        .ends_server(),
        Fault::up(
            "kill-server-under-command",
            Work::ThroughServer(SLEEP),
            |t| {
                processes::signal(t.server, Signal::KILL);
                Ok(())
            },
        )
        .promise(Promise::exits(&[125]))
        .within(10)
        .ends_server(),
        Fault::up(
            "kill-interpreter",
            Work::Session("echo up; kill -9 $$"),
            |_| Ok(()),
        )
        .promise(Promise::causes_of(&["signaled"]))
        .within(10),
        Fault::up(
            "terminate-server",
            Work::Stream("echo up; sleep 2; echo end"),
            |t| {
                processes::signal(t.server, Signal::TERM);
                Ok(())
            },
        )
        .promise(Promise::causes_of(&["exited"]))
        .within(20)
        .ends_server(),
    ]
}
