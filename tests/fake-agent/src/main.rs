//! The first process of a guest with a hostile agent. It answers the host's greeting, and then reacts to each request
//! with the attack that the request names: an exec by its code, a file request by its path.
//!
//! The kind of its greeting is appended to the program itself, as a last line: `greeting=…`.

mod attacks;
mod greetings;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use serde_json::Value;

/// The connection to the host.
struct Connection(File);

impl Connection {
    fn open() -> io::Result<Self> {
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
    fn next_request(&mut self) -> Value {
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
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref());
    }

    /// Sends a message with its type first, where the host expects it in a greeting.
    fn send_message(&mut self, message: &Value) {
        let mut rest = message.clone();
        let kind = rest["type"].take();

        if let Some(rest) = rest.as_object_mut() {
            rest.remove("type");
        }

        let rest = rest.to_string();
        self.send(format!("{{\"type\":{kind},{}\n", &rest[1..]));
    }
}

/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(1);

fn main() {
    let mut connection = match Connection::open() {
        Ok(connection) => connection,
        Err(error) => {
            // Standard error is the kernel's console.
            eprintln!("fake agent: {error}");
            return;
        }
    };

    greetings::greet(&mut connection, &greeting_kind());
    loop {
        let request = connection.next_request();
        attacks::run(&mut connection, &request);
    }
}

/// Returns the kind of greeting that is appended to the program.
fn greeting_kind() -> String {
    let program = fs::read("/init").unwrap_or_default();
    let last = program
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();

    let last = String::from_utf8_lossy(last).into_owned();
    last.strip_prefix("greeting=")
        .unwrap_or_default()
        .to_owned()
}

/// Blocks forever.
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
