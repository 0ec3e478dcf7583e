use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};

use crate::{Breaches, succeeded};

/// Numbers that other processes are tried under: the first ones of a host, and the owner's neighbours.
const TRIED: i32 = 4096;

/// Finds other processes, and sends them nothing, which tells whether they could be sent anything.
pub(crate) fn others() -> Breaches {
    let seen = strangers().map(|pid| format!("/proc/{}", pid.as_raw_nonzero()));
    let mut breaches: Breaches = seen.filter(|path| fs::metadata(path).is_ok()).collect();
    breaches.extend(succeeded(strangers().map(|pid| {
        (
            format!("kill {}", pid.as_raw_nonzero()),
            test_kill_process(pid),
        )
    })));
    breaches.truncate(5);
    breaches
}

fn strangers() -> impl Iterator<Item = Pid> {
    let own = std::process::id().cast_signed();
    (1..TRIED)
        .filter(move |pid| *pid != own)
        .filter_map(Pid::from_raw)
}

/// Reads others' memory, and takes others' descriptors.
pub(crate) fn memory() -> Breaches {
    let memory = strangers().map(|pid| {
        let path = format!("/proc/{}/mem", pid.as_raw_nonzero());
        (path.clone(), fs::File::open(path).map_err(|_| ()).map(drop))
    });
    let descriptors = strangers().map(|pid| {
        let opened = pidfd_open(pid, PidfdFlags::empty());
        let what = format!("pidfd_open {}", pid.as_raw_nonzero());
        (what, opened.map_err(|_| ()).map(drop))
    });
    let mut breaches = succeeded(memory.chain(descriptors));
    breaches.truncate(5);
    breaches
}

/// The argument of a copy of this program that is to live on.
pub(crate) const SURVIVE: &str = "survive";

/// How long it would.
const LIFE: Duration = Duration::from_secs(300);

/// Leaves a process behind.
pub(crate) fn survival() -> Breaches {
    let own = std::env::current_exe().unwrap_or_default();
    let child = Command::new(own).arg(SURVIVE).spawn();
    succeeded([("a child was started".to_string(), child)])
}

/// Is what was left behind.
pub(crate) fn survive() -> ! {
    let _ = rustix::process::setsid();
    std::thread::sleep(LIFE);
    std::process::exit(0)
}
