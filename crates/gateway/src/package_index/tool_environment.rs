use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::error::IndexError;

/// Bytes of a tool's configuration or answer at most; real ones have a few hundred.
const READ_BYTES: u64 = 1024 * 1024;
/// How long a tool may take to tell its default; npm takes half a second on a slow host.
const TOOL_TIME: Duration = Duration::from_secs(10);

/// Asks a program for what it prints; none where it is not there or fails.
type Ask = fn(&str, &[&str]) -> Option<String>;

/// Where tools find their configuration.
#[derive(Clone)]
pub struct ToolEnvironment {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// What `/etc` is below.
    pub root: PathBuf,
    /// Asks a program for what it prints; none where it is not there or fails.
    pub run_tool: Ask,
}

impl fmt::Debug for ToolEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the environment, which may hold passwords.
        f.debug_struct("Surroundings")
            .field("home", &self.home)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl ToolEnvironment {
    /// Those of this process. Variables that are no text are left out.
    #[must_use]
    pub fn of_host() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            env: std::env::vars_os().filter_map(text).collect(),
            home: std::env::home_dir(),
            root: "/".into(),
            run_tool,
        }
    }

    /// A variable that is set to something.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.trim().is_empty())
    }

    pub(super) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }

    /// A file of the user's configuration directory.
    pub(super) fn in_config(&self, path: &str) -> Option<PathBuf> {
        match self.var("XDG_CONFIG_HOME") {
            Some(directory) => Some(Path::new(directory).join(path)),
            None => self
                .in_home(".config")
                .map(|directory| directory.join(path)),
        }
    }

    pub(super) fn in_etc(&self, path: &str) -> PathBuf {
        self.root.join("etc").join(path)
    }
}

/// A file's text; none where there is no such file.
///
/// # Errors
/// It is there and cannot be read, is no text, or longer than a configuration can be.
pub(super) fn read(file: &Path) -> Result<Option<String>, IndexError> {
    let error = |reason: String| IndexError::File {
        file: file.display().to_string(),
        reason,
    };
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(error(e.to_string())),
    };
    let mut text = String::new();
    opened
        .take(READ_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|e| error(e.to_string()))?;
    if text.len() as u64 > READ_BYTES {
        return Err(error(format!("it has more than {READ_BYTES} bytes")));
    }
    Ok(Some(text))
}

/// Runs a program, and ends it where it takes too long.
fn run_tool(program: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let answer = answer(&mut child);
    // After its last word it has nothing more to do; one that goes on is not waited for.
    let _ = child.kill();
    let _ = child.wait();
    answer
}

fn answer(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(READ_BYTES).read_to_string(&mut text);
        let _ = sender.send(read.ok().map(|_| text));
    });
    receiver.recv_timeout(TOOL_TIME).ok().flatten()
}
