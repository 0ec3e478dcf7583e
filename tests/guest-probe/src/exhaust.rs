//! Exhausts one resource of the guest. Each function prints `full` when it gets no more, and keeps trying.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The pause between attempts after the resource is exhausted.
const PAUSE: Duration = Duration::from_millis(10);
const CHUNK_BYTES: usize = 1024 * 1024;

/// Prints `full`. The test then checks how other guests are affected.
fn report_full() {
    let _ = std::io::stdout().write_all(b"full\n");
}

/// Forks until no more processes can be started, and keeps trying.
pub(crate) fn forks() {
    let program = "/proc/self/exe";
    let mut reported = std::env::args().nth(2).is_some();

    loop {
        let child = Command::new(program)
            .args(["forks", "again"])
            .stdout(Stdio::null())
            .spawn();

        if child.is_err() {
            if !std::mem::replace(&mut reported, true) {
                report_full();
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Allocates and writes memory until the kernel kills the process.
pub(crate) fn memory() {
    let mut chunks = Vec::new();
    loop {
        chunks.push(vec![1_u8; CHUNK_BYTES]);
        std::hint::black_box(&chunks);
    }
}

/// Fills every writable file system, with data and with empty files.
pub(crate) fn disk() {
    let mut files = Vec::new();
    for directory in ["/tmp", "/dev/shm", "."] {
        if let Ok(file) = File::create(format!("{directory}/large")) {
            files.push(file);
        }
    }

    let chunk = vec![1; CHUNK_BYTES];
    for file in &mut files {
        while file.write_all(&chunk).is_ok() {}
    }

    let mut number = 0_u64;
    while fs::write(format!("empty-{number}"), "").is_ok() {
        number += 1;
    }

    report_full();
    loop {
        for file in &mut files {
            let _ = file.write(&chunk);
        }
        thread::sleep(PAUSE);
    }
}

/// The number of processes that hold open files. Together they try to open ten times the default of a kernel with
/// half a gigabyte.
const HOLDERS: usize = 8;

/// Opens as many files as one process may have, in several processes.
pub(crate) fn descriptors() {
    let max = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: max,
        maximum: max,
    };

    let _ = setrlimit(Resource::Nofile, raised);
    let is_first = std::env::args().nth(2).is_none();
    if is_first {
        for _ in 1..HOLDERS {
            let _ = Command::new("/proc/self/exe")
                .args(["descriptors", "again"])
                .stdout(Stdio::null())
                .spawn();
        }
    }

    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }

    if is_first {
        report_full();
    }

    loop {
        files.extend(File::open("/dev/null"));
        thread::sleep(PAUSE);
    }
}
