//! A store of a test's own, with templates and hot images that it may damage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use fumehood_engine::image::Store;
use serde_json::Value;

use crate::unprivileged::{copy_programs, copy_store};
use crate::{finish, wait_until};

/// Builds the template and the hot image of the shell.
pub const BUILD: [&str; 5] = ["template", "build", "-l", "shell", "--no-network"];
/// Runs a program that [`says_hi`].
pub const RUN: [&str; 6] = ["run", "--json", "-l", "shell", "-c", "echo hi"];

/// A store with a copy of the image, of which another user may be the owner.
#[derive(Debug)]
pub struct OwnStore {
    place: tempfile::TempDir,
    /// The command, beside its launcher.
    pub program: PathBuf,
}

impl Default for OwnStore {
    fn default() -> Self {
        Self::new()
    }
}

impl OwnStore {
    /// Copies the image, and the command with its launcher.
    ///
    /// # Panics
    /// Panics if that fails.
    #[must_use]
    pub fn new() -> Self {
        let place = copy_store();
        let program = copy_programs(place.path());
        Self { place, program }
    }

    /// Returns its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Returns a command that uses this store.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args);
        self.settings(&mut command);
        command
    }

    /// Lets a command use this store.
    pub fn settings(&self, command: &mut Command) {
        command
            .env("FUMEHOOD_HOME", self.path())
            .env("FUMEHOOD_NO_SERVER", "1")
            .env_remove("FUMEHOOD_LAUNCHER");
    }

    /// Returns a command that is run by an ordinary user, if the tests run as root.
    #[must_use]
    pub fn unprivileged_command(&self, args: &[&str]) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.command(args);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&self.program)
            .args(args);
        self.settings(&mut command);
        command
    }

    /// Builds what does not exist of the shell's template and hot image.
    ///
    /// # Panics
    /// Panics if that fails.
    pub fn build(&self, options: &[&str]) {
        // A run that missed an image may have started a process that builds it.
        wait_until("a hot image", || {
            let mut command = self.command(&[&BUILD, options].concat());
            command.env("FUMEHOOD_LOG", "warn");
            let output = finish(command);
            assert!(output.status.success(), "no image was built: {output:?}");
            !self.images().is_empty()
        });
        let images = Store::open(self.path()).unwrap().hot_images();
        wait_until("the end of that process", || {
            images.lock_builder().unwrap().is_some()
        });
    }

    /// The files of its hot images that are finished.
    #[must_use]
    pub fn images(&self) -> Vec<PathBuf> {
        files_below(&self.path().join("hot-images"))
            .into_iter()
            .filter(|path| path.ends_with("pages"))
            .collect()
    }
}

/// Returns the standard output of a command that succeeds.
///
/// # Panics
/// Panics if it fails.
pub fn finish_ok(command: Command) -> String {
    let output = finish(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the outcome of a run that prints `hi`.
///
/// # Panics
/// Panics if it fails or prints something else.
#[must_use]
pub fn says_hi(command: Command) -> Value {
    let outcome: Value = serde_json::from_str(&finish_ok(command)).unwrap();
    assert_eq!(outcome["stdout"], "hi\n", "{outcome}");
    outcome
}

/// Returns the paths of all files below a directory, which need not exist.
#[must_use]
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
