//! The first process of an emulated host that has KVM (`cargo xtask test-kvm`). It builds a root file system from
//! directories of the real host, runs the checks of a plan, writes a line of JSON about each to the second serial port,
//! and switches the machine off.
//!
//! The kernel is a distribution's, with KVM as a module; this program is the only one in its initial file system.

mod report;
mod check;
mod plan;
mod boot;

use std::process::ExitCode;

use rustix::system::{RebootCommand, reboot};

use crate::plan::Plan;
use crate::report::Report;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "fumehood-kvm-host is the first process of a test machine; run `cargo xtask test-kvm`"
        );
        return ExitCode::FAILURE;
    }

    if let Err(error) = run() {
        eprintln!("the machine could not be prepared: {error:#}");
    }

    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("the machine could not be switched off: {error:?}");
    ExitCode::FAILURE
}

fn run() -> anyhow::Result<()> {
    boot::load_modules()?;
    boot::mount_host()?;
    let plan = Plan::read()?;
    boot::enter_root(&plan.shared, &plan.copied)?;

    let mut report = Report::open()?;
    for check in &plan.checks {
        report.started(check)?;
        let outcome = check::run(check);
        report.ended(check, &outcome)?;
    }
    report.finished()
}
