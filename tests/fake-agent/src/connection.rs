//! The virtio-serial port through which the agent and the host talk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use serde_json::Value;

/// The pause between two polls.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// The connection to the host.
pub(crate) struct Connection(File);

impl Connection {
    pub(crate) fn open() -> io::Result<Self> {
        mount("devtmpfs", "/dev", "devtmpfs", MountFlags::empty(), None)
            // The kernel may have mounted it already.
            .or_else(|_| {
                Path::new("/dev/null")
                    .exists()
                    .then_some(())
                    .ok_or(io::ErrorKind::NotFound)
            })?;
        mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
        loop {
            for port in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
                let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
                if name.trim_end() == "fumehood.agent" {
                    let path = Path::new("/dev").join(port.file_name());
                    return Ok(Self(OpenOptions::new().read(true).write(true).open(path)?));
                }
            }

            sleep(PAUSE);
        }
    }

    /// Returns the next request; partial and empty lines are skipped.
    pub(crate) fn next_request(&mut self) -> Value {
        let mut line = Vec::new();
        let mut byte = [0];

        loop {
            match self.0.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => match serde_json::from_slice(&line) {
                    Ok(request) => return request,
                    Err(_) => line.clear(),
                },
                Ok(1) => line.push(byte[0]),
                // The host has not opened its end yet.
                _ => sleep(PAUSE),
            }
        }
    }

    /// Sends bytes; blocks forever if the host does not read them.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref());
    }

    /// Sends a message with its type first, where the host expects it in a greeting.
    pub(crate) fn send_message(&mut self, message: &Value) {
        let mut rest = message.clone();
        let kind = rest["type"].take();

        if let Some(rest) = rest.as_object_mut() {
            rest.remove("type");
        }

        let rest = rest.to_string();
        self.send(format!("{{\"type\":{kind},{}\n", &rest[1..]));
    }
}

/// Blocks forever.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
