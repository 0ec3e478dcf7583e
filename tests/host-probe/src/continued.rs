//! The probe as a process image: it waits until it is saved, and tries everything in the process that continues from it.

use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use fumehood_sys::host::duplicate_inherited;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::breaches::Breaches;
use crate::files;
use crate::walls::{Layer, WALLS, verdict};

/// The first argument of a probe that waits for its owner. The second one is the number of a socket.
pub(crate) const WAIT: &str = "wait";

/// What a process that was executed needs, and one that continues does not.
const CONTINUED_WALLS: [Layer; 3] = [
    ("exec", "execute files that exist and others", exec),
    ("empty root", "open / and what QEMU starts from", files::any),
    (
        "passed descriptors",
        "look for more than the owner has passed",
        passed_descriptors,
    ),
];

/// Sends a byte to the owner, waits for one, and sends the verdicts.
pub(crate) fn report_after_wait(owner: &str) {
    let socket = owner.parse::<RawFd>().map_err(std::io::Error::other);
    let reported = socket.and_then(|socket| {
        let mut owner = UnixStream::from(duplicate_inherited(socket)?);
        owner.write_all(b"w")?;
        wait_for_input(&owner)?;
        owner.read_exact(&mut [0])?;

        let layers = WALLS.into_iter().chain(CONTINUED_WALLS);
        let verdicts: Vec<_> = layers.map(verdict).collect();
        owner.write_all(json!(verdicts).to_string().as_bytes())
    });
    if let Err(error) = reported {
        eprintln!("the probe cannot talk to its owner: {error}");
    }
}

/// Waits in a call that a copy of this process can repeat.
fn wait_for_input(owner: &UnixStream) -> std::io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(owner, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// The kernel must know no exec at all: another error would mean that it looked for the file.
fn exec() -> Breaches {
    let paths = ["/", "/proc/self/exe", "/bin/sh", "/nonexistent"];
    let errors = paths.map(|path| (path, Command::new(path).exec()));
    let reached = errors
        .into_iter()
        .filter(|(_, error)| error.kind() != std::io::ErrorKind::Unsupported);
    reached
        .map(|(path, error)| format!("{path}: {error}"))
        .collect()
}

/// The owner has passed a socket, which the probe has duplicated, and a file.
fn passed_descriptors() -> Breaches {
    let numbers = files::passed_descriptors();
    match numbers.len() {
        3 => Breaches::new(),
        _ => vec![format!("descriptors {numbers:?}")],
    }
}
