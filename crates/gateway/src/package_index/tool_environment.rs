//! Where tools find their configuration: variables, files, and their own answers.

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

/// Maximum length of a configuration file or a tool's output, in bytes. Real ones have a few hundred.
const MAX_READ_BYTES: u64 = 1024 * 1024;
/// Deadline for a tool to print its default. npm takes half a second on a slow host.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a program and returns its output; `None` if it is not installed or fails.
type RunTool = fn(&str, &[&str]) -> Option<String>;

/// Where tools find their configuration.
#[derive(Clone)]
pub struct ToolEnvironment {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The directory that contains `etc`.
    pub root: PathBuf,
    /// Runs a program and returns its output; `None` if it is not installed or fails.
    pub run_tool: RunTool,
}

impl fmt::Debug for ToolEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variables are left out, because they may contain passwords.
        f.debug_struct("ToolEnvironment")
            .field("home", &self.home)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl ToolEnvironment {
    /// Returns the environment of this process. Variables that are not valid UTF-8 are left out.
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

    /// Returns a variable that is set and not blank.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.trim().is_empty())
    }

    pub(super) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }

    /// Returns the path of a file in the user's configuration directory.
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

/// Reads a file; returns `None` if it does not exist.
///
/// # Errors
/// Fails if the file cannot be read, is not UTF-8, or is longer than [`MAX_READ_BYTES`].
pub(super) fn read(file: &Path) -> Result<Option<String>, IndexError> {
    let error = |reason: String| IndexError::File {
        file: file.display().to_string(),
        reason,
    };

    // A missing file is not an error.
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(error(e.to_string())),
    };

    // One byte more than the maximum shows that the file is too long.
    let mut text = String::new();
    opened
        .take(MAX_READ_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|e| error(e.to_string()))?;

    if text.len() as u64 > MAX_READ_BYTES {
        return Err(error(format!("it has more than {MAX_READ_BYTES} bytes")));
    }

    Ok(Some(text))
}

/// Runs a program, and kills it if it takes too long.
fn run_tool(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());

    let mut child = command.spawn().ok()?;
    let output = read_output(&mut child);
    // A program that continues after its output is not waited for.
    let _ = child.kill();
    let _ = child.wait();

    output
}

fn read_output(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(MAX_READ_BYTES).read_to_string(&mut text);
        let _ = sender.send(read.ok().map(|_| text));
    });

    receiver.recv_timeout(TOOL_TIMEOUT).ok().flatten()
}
