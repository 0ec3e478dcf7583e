//! Clocks that step.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;

use crate::fault::{Fault, Needs, Promise, Scene};
use crate::work::{Ended, finish};

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::scene("clock-of-another-boot", other_boot)
            .promise(Promise::exits(&[0]))
            .within(20)
            .needs(Needs::Root),
    ]
}

/// The host's monotonic clock is years ahead, as after a restore of the host itself. The guest's clock is right.
fn other_boot(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let offset = s.random.below(100_000_000).to_string();
    let args = ["run", "-l", "shell", "-c", "date +%s"];
    let inner = s.world.fumehood(&args, false);
    let mut command = Command::new("unshare");
    command.args([
        "--time",
        "--monotonic",
        &offset,
        "--boottime",
        &offset,
        "--",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }

    let ended = finish(command, s.world.deadline(s.within_s))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seen: u64 = ended.text.trim().parse().unwrap_or(0);
    ensure!(
        now.abs_diff(seen) <= 60,
        "the guest's clock says {seen} at {now}: {ended:?}"
    );
    Ok(ended)
}
