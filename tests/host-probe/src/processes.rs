use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, pidfd_open, set_parent_process_death_signal, test_kill_process,
};

use crate::breaches::{Breaches, succeeded};

/// The upper bound of the process ids that are tried: the first ones of a host, and the owner's neighbours.
const MAX_PID: i32 = 4096;

/// Looks for other processes, and sends them signal 0, which shows whether they could be sent a signal.
pub(crate) fn others() -> Breaches {
    let paths = other_pids().map(|pid| format!("/proc/{}", pid.as_raw_nonzero()));
    let mut breaches: Breaches = paths.filter(|path| fs::metadata(path).is_ok()).collect();
    breaches.extend(succeeded(other_pids().map(|pid| {
        (
            format!("kill {}", pid.as_raw_nonzero()),
            test_kill_process(pid),
        )
    })));
    breaches.truncate(5);

    breaches
}

fn other_pids() -> impl Iterator<Item = Pid> {
    let own = std::process::id().cast_signed();
    (1..MAX_PID)
        .filter(move |pid| *pid != own)
        .filter_map(Pid::from_raw)
}

/// Tries to read the memory of other processes, and to get their descriptors.
pub(crate) fn memory() -> Breaches {
    let memory = other_pids().map(|pid| {
        let path = format!("/proc/{}/mem", pid.as_raw_nonzero());
        (path.clone(), fs::File::open(path).map_err(|_| ()).map(drop))
    });

    let descriptors = other_pids().map(|pid| {
        let opened = pidfd_open(pid, PidfdFlags::empty());
        let name = format!("pidfd_open {}", pid.as_raw_nonzero());
        (name, opened.map_err(|_| ()).map(drop))
    });

    let mut breaches = succeeded(memory.chain(descriptors));
    breaches.truncate(5);

    breaches
}

/// The argument of a copy of this program that should survive it.
pub(crate) const SURVIVE: &str = "survive";

/// How long the copy runs.
const LIFETIME: Duration = Duration::from_secs(300);

/// Tries to leave a process behind, and to outlive its owner itself.
pub(crate) fn survival() -> Breaches {
    let own = std::env::current_exe().unwrap_or_default();
    let child = Command::new(&own).arg(SURVIVE).spawn().map(drop);
    let signal = set_parent_process_death_signal(None).map_err(Into::into);

    // The death signal belongs to a thread. After an exec from another thread, the process has none.
    let exec = std::thread::spawn(|| Command::new("/nonexistent").exec()).join();
    let exec = match exec.map(|error| error.kind()) {
        Ok(std::io::ErrorKind::Unsupported) => Err(std::io::ErrorKind::Unsupported.into()),
        _ => Ok(()),
    };

    succeeded([
        ("a child was started".to_string(), child),
        ("the death signal is gone".to_string(), signal),
        ("a second thread can exec".to_string(), exec),
    ])
}

/// Runs as the process that was left behind.
pub(crate) fn sleep_and_exit() -> ! {
    let _ = rustix::process::setsid();
    std::thread::sleep(LIFETIME);
    std::process::exit(0)
}
