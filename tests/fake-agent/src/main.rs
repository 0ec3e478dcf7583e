//! The first process of a guest whose agent is the host's enemy. It lets itself be greeted, and then does with each
//! request what the request names: an exec by its code, a touch of a file by its path.
//!
//! How it greets is written behind the program itself, as a last line: `greeting=…`.

mod deeds;
mod greetings;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use serde_json::Value;

/// The line to the host.
struct Line(File);

impl Line {
    fn open() -> io::Result<Self> {
        mount("devtmpfs", "/dev", "devtmpfs", MountFlags::empty(), None)
            // The kernel may have done it.
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

    /// The next line that is a request; a half one and an empty one are none.
    fn request(&mut self) -> Value {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.0.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => match serde_json::from_slice(&line) {
                    Ok(request) => return request,
                    Err(_) => line.clear(),
                },
                Ok(1) => line.push(byte[0]),
                // Nobody is at the other end yet.
                _ => sleep(PAUSE),
            }
        }
    }

    /// Says something; waits for ever where nobody takes it.
    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.write_all(bytes.as_ref());
    }

    /// Says a message, its type first, as the host looks for it in a greeting.
    fn tell(&mut self, message: &Value) {
        let mut rest = message.clone();
        let kind = rest["type"].take();
        if let Some(rest) = rest.as_object_mut() {
            rest.remove("type");
        }
        let rest = rest.to_string();
        self.say(format!("{{\"type\":{kind},{}\n", &rest[1..]));
    }
}

/// Between looks at something that is not there yet.
const PAUSE: Duration = Duration::from_millis(1);

fn main() {
    let mut line = match Line::open() {
        Ok(line) => line,
        Err(error) => {
            // Standard error is the kernel's console.
            eprintln!("fake agent: {error}");
            return;
        }
    };
    greetings::greet(&mut line, &manner());
    loop {
        let request = line.request();
        deeds::answer(&mut line, &request);
    }
}

/// What is written behind the program.
fn manner() -> String {
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

/// Nothing more, ever.
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
