//! The workspace's test programs: built by cargo, run one after the other, timed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::setup::PROFILE;
use crate::shell::{self, cargo};

/// Set for the tests by `--long`: those that repeat something do it as often as the design asks for.
pub(crate) const LONG: &str = "FUMEHOOD_TEST_LONG";

/// How long a test program may take. The slowest takes some three minutes in CI; one that hangs must not take the time
/// of all others, and the report must name it.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The same with `--long`.
const LONG_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
/// How often a running program is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How many test programs the report names.
const SLOWEST: usize = 10;

/// A program of tests.
#[derive(Debug)]
pub(crate) struct TestProgram {
    /// As `fumehood-end-to-end fork`: the crate, and the file in `tests/` unless it holds the crate's own unit tests.
    name: String,
    pub(crate) executable: PathBuf,
    /// The crate's directory, in which cargo runs its tests.
    pub(crate) directory: PathBuf,
}

impl TestProgram {
    /// Whether the program is this file in `tests/end-to-end/tests`.
    pub(crate) fn is_integration_test(&self, file: &str) -> bool {
        self.name.strip_prefix("end-to-end ") == Some(file)
    }

    /// Returns the names of its tests.
    ///
    /// # Errors
    /// Fails if it cannot be started.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<String>> {
        let output = Command::new(&self.executable)
            .args(["--list", "--format", "terse"])
            .current_dir(&self.directory)
            .output()
            .with_context(|| format!("{} could not be started", self.executable.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));

        Ok(names.map(str::to_owned).collect())
    }

    /// Whether the program has a test whose name contains this.
    fn has_test(&self, filter: &str) -> bool {
        let output = Command::new(&self.executable)
            .args([filter, "--list", "--format", "terse"])
            .current_dir(&self.directory)
            .output();

        output.is_ok_and(|output| !output.stdout.is_empty())
    }
}

/// How long each test program took, and which failed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    times: Vec<(Duration, String)>,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, took: Duration, passed: bool) {
        self.times.push((took, name.to_owned()));
        if !passed {
            self.failed.push(name.to_owned());
        }
    }

    /// Prints the slowest programs.
    ///
    /// # Errors
    /// Fails if a program failed, with the names of all that did.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.times.sort();

        eprintln!("the slowest test programs:");
        for (took, name) in self.times.iter().rev().take(SLOWEST) {
            eprintln!("  {:6.1} s  {name}", took.as_secs_f32());
        }

        if !self.failed.is_empty() {
            bail!("these test programs failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}

/// Runs test programs; all of them, also after one has failed.
///
/// With a filter, only the programs whose name contains it run. If there are none, it selects tests by name instead.
///
/// # Errors
/// Fails if a program cannot be started, or no test matches the filter. Failed tests are in the report.
pub(crate) fn run(
    programs: &[TestProgram],
    filter: Option<&str>,
    environment: &[(&str, OsString)],
) -> anyhow::Result<Report> {
    let mut test_filter = None;
    let mut programs: Vec<&TestProgram> = programs.iter().collect();

    if let Some(filter) = filter {
        if programs.iter().any(|program| program.name.contains(filter)) {
            programs.retain(|program| program.name.contains(filter));
        } else {
            programs.retain(|program| program.has_test(filter));
            test_filter = Some(filter);
        }
        if programs.is_empty() {
            bail!("no test program and no test has a name that contains `{filter}`");
        }
    }

    let mut report = Report::default();
    for program in programs {
        eprintln!("\n── {} ──", program.name);
        let start = Instant::now();
        let passed = run_one(program, test_filter, environment)?;
        report.add(&program.name, start.elapsed(), passed);
    }

    if filter.is_none() {
        let start = Instant::now();
        let passed = shell::run(
            cargo()
                .args(["test", "--doc", "--workspace", "--all-features"])
                .args(["--profile", PROFILE]),
        );
        report.add("documentation", start.elapsed(), passed.is_ok());
    }

    Ok(report)
}

fn run_one(
    program: &TestProgram,
    test_filter: Option<&str>,
    environment: &[(&str, OsString)],
) -> anyhow::Result<bool> {
    let mut child = Command::new(&program.executable)
        .args(test_filter)
        .current_dir(&program.directory)
        // As cargo does, for tests that look for files of their crate.
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("{} could not be started", program.executable.display()))?;

    let is_long = environment.iter().any(|(name, _)| *name == LONG);
    let timeout = if is_long { LONG_TIMEOUT } else { TIMEOUT };
    finish_within(&mut child, &program.name, timeout)
}

/// Waits for a test program, and kills it after this time. Its VMs and servers end with it.
fn finish_within(child: &mut Child, name: &str, timeout: Duration) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }

        if start.elapsed() > timeout {
            child.kill()?;
            child.wait()?;
            eprintln!(
                "{name} was killed: it did not end within {} s",
                timeout.as_secs()
            );
            return Ok(false);
        }

        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Builds the workspace with its test programs, and returns those by crate and name.
///
/// One build serves all: with one selection of features, each dependency is compiled once for the command and its tests.
///
/// # Errors
/// Fails if something cannot be built.
pub(crate) fn build() -> anyhow::Result<Vec<TestProgram>> {
    build_selected(&["--workspace", "--all-targets"])
}

/// Builds the test programs of one package.
///
/// # Errors
/// Fails if something cannot be built.
pub(crate) fn build_package(package: &str) -> anyhow::Result<Vec<TestProgram>> {
    build_selected(&["--package", package, "--tests"])
}

fn build_selected(selection: &[&str]) -> anyhow::Result<Vec<TestProgram>> {
    let mut command = cargo();
    command.arg("build").args(selection).arg("--all-features");
    command.args(["--profile", PROFILE]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let selection = selection.join(" ");
    eprintln!("$ cargo build {selection} --all-features --profile {PROFILE}");

    let start = Instant::now();
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the tests could not be built; see above");
    }
    eprintln!("  ({:.1} s)", start.elapsed().as_secs_f32());

    let messages = String::from_utf8(output.stdout)?;
    let mut programs: Vec<TestProgram> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|message| test_program(&message))
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));

    Ok(programs)
}

/// The test program that a message of cargo's is about, if it is about one.
fn test_program(message: &Value) -> Option<TestProgram> {
    if message["profile"]["test"] != true {
        return None;
    }

    let executable = message["executable"].as_str()?;
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = directory.file_name()?.to_str()?;
    let target = message["target"]["name"].as_str()?;
    let is_integration_test = message["target"]["kind"][0] == "test";

    Some(TestProgram {
        name: if is_integration_test {
            format!("{package} {target}")
        } else {
            format!("{package} (unit tests)")
        },
        executable: executable.into(),
        directory: directory.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_are_named_by_crate_and_file() {
        let message = |kind: &str, name: &str| {
            json!({
                "profile": {"test": true},
                "executable": "/t/x",
                "manifest_path": "/w/tests/end-to-end/Cargo.toml",
                "target": {"name": name, "kind": [kind]},
            })
        };

        let name = |message: &Value| test_program(message).unwrap().name;
        assert_eq!(name(&message("test", "fork")), "end-to-end fork");
        assert_eq!(
            name(&message("lib", "fumehood_x")),
            "end-to-end (unit tests)"
        );
    }

    #[test]
    fn what_is_no_test_is_left_out() {
        assert!(test_program(&json!({"profile": {"test": false}, "executable": "/t/x"})).is_none());
        assert!(test_program(&json!({"reason": "build-finished"})).is_none());
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        let limit = Duration::from_secs(60);
        assert!(finish_within(&mut start("0"), "short", limit).unwrap());
        assert!(!finish_within(&mut start("60"), "long", Duration::from_millis(50)).unwrap());
    }

    #[test]
    fn a_report_names_all_programs_that_failed() {
        let mut report = Report::default();
        report.add("a", Duration::from_secs(1), false);
        report.add("b", Duration::from_secs(2), true);
        report.add("c", Duration::from_secs(3), false);

        let error = report.finish().unwrap_err().to_string();
        assert!(error.contains("a, c"), "{error}");
    }
}
