//! What takes all there is of something. Each says `full` when it gets no more, and goes on trying.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Between attempts when there is no more.
const PAUSE: Duration = Duration::from_millis(10);
const PIECE_BYTES: usize = 1024 * 1024;

/// Says `full`, once; who hears it looks how others fare.
fn full() {
    let _ = std::io::stdout().write_all(b"full\n");
}

/// Processes that start others, each two, for ever.
pub(crate) fn forks() {
    let program = "/proc/self/exe";
    let mut said = std::env::args().nth(2).is_some();
    loop {
        let child = Command::new(program)
            .args(["forks", "again"])
            .stdout(Stdio::null())
            .spawn();
        if child.is_err() {
            if !std::mem::replace(&mut said, true) {
                full();
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Memory, all of it written to, until the kernel ends it.
pub(crate) fn memory() {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; PIECE_BYTES]);
        std::hint::black_box(&held);
    }
}

/// What files there can be, in every place that it may write to.
pub(crate) fn disk() {
    let mut files = Vec::new();
    for place in ["/tmp", "/dev/shm", "."] {
        if let Ok(file) = File::create(format!("{place}/large")) {
            files.push(file);
        }
    }
    let piece = vec![1; PIECE_BYTES];
    for file in &mut files {
        while file.write_all(&piece).is_ok() {}
    }
    let mut number = 0_u64;
    while fs::write(format!("empty-{number}"), "").is_ok() {
        number += 1;
    }
    full();
    loop {
        for file in &mut files {
            let _ = file.write(&piece);
        }
        thread::sleep(PAUSE);
    }
}

/// Processes that hold open files: ten times what a kernel of half a gigabyte allows by itself.
const HOLDERS: usize = 8;

/// Open files: as many as one process may have, in several.
pub(crate) fn descriptors() {
    let most = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: most,
        maximum: most,
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
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    if is_first {
        full();
    }
    loop {
        held.extend(File::open("/dev/null"));
        thread::sleep(PAUSE);
    }
}
