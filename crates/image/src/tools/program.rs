//! Runs the programs of a build: with a deadline, with their output passed on line by line, and terminated
//! when this process ends.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Error;

/// Lines of output that an error quotes.
const TAIL_LINES: usize = 20;
/// The length to which output lines are truncated.
const MAX_LINE_BYTES: usize = 2000;
/// The time between asking a program to terminate and killing it.
const GRACE_PERIOD: Duration = Duration::from_secs(10);
/// How long to wait for output after the program has exited, if its children still hold the pipes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A program to run.
pub(crate) struct Program {
    task: &'static str,
    program: String,
    command: Command,
    timeout: Duration,
}

impl Program {
    /// Creates the command of a program that performs `task` within `timeout`.
    pub(crate) fn new(task: &'static str, program: &str, timeout: Duration) -> Self {
        // Its own process group, so that it can be terminated with its children.
        let mut command = tied_to_parent(program);
        command
            .stdin(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .process_group(0);

        Self {
            task,
            program: program.to_owned(),
            command,
            timeout,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Returns the value that a variable was given.
    #[cfg(test)]
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut variables = self.command.get_envs();
        variables.find_map(|(one, value)| value.filter(|_| one == name))
    }

    pub(crate) fn unset_env(mut self, names: &[&str]) -> Self {
        for name in names {
            self.command.env_remove(name);
        }
        self
    }

    pub(crate) fn current_dir(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Runs the program and passes each line of both outputs to `on_line`.
    pub(crate) fn run(mut self, on_line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .map_err(Error::io("start", &self.program))?;

        // Read both outputs on threads until the program exits or runs out of time.
        let (sender, lines) = channel();
        forward_lines(child.stdout.take(), sender.clone());
        forward_lines(child.stderr.take(), sender);
        let mut tail = OutputTail::default();
        let outcome = wait_with_output(&mut child, &lines, self.timeout, &mut |line| {
            tail.push(line);
            on_line(line);
        });

        // Report how it ended.
        let status = match outcome.map_err(Error::io("wait for", &self.program))? {
            Some(status) => status,
            None => return Err(self.deadline_error(&tail)),
        };

        if status.success() {
            return Ok(());
        }

        Err(Error::Program {
            task: self.task,
            program: self.program,
            status: status.to_string(),
            tail: tail.text(),
        })
    }

    /// Runs the program and returns its output.
    pub(crate) fn output(self) -> Result<String, Error> {
        let mut text = String::new();
        self.run(&mut |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        Ok(text)
    }

    fn deadline_error(self, tail: &OutputTail) -> Error {
        Error::Deadline {
            task: self.task,
            program: self.program,
            timeout: self.timeout,
            tail: tail.text(),
        }
    }
}

/// Returns the path of a program, if it is installed.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;

    // The PATH of ordinary users often lacks the administration directories.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

/// Returns an error that names the package to install if the program is missing.
pub(crate) fn require_program(
    program: &str,
    purpose: &'static str,
    package: &'static str,
) -> Result<(), Error> {
    match find_program(program) {
        Some(_) => Ok(()),
        None => Err(Error::MissingProgram {
            program: program.to_owned(),
            purpose,
            package,
        }),
    }
}

/// Returns the errors of programs that are not installed.
pub(crate) fn missing_programs(
    programs: &[(&str, &'static str)],
    purpose: &'static str,
) -> Vec<Error> {
    let required = programs
        .iter()
        .map(|(program, package)| require_program(program, purpose, package));
    required.filter_map(Result::err).collect()
}

/// Starts the program with the usual umask: files that go into an image must not depend on that of the caller. Also
/// through `setpriv`, if available, so that the kernel terminates it when the thread that runs this build dies. A
/// `kill -9` of the build does not orphan it.
fn tied_to_parent(program: &str) -> Command {
    const WITH_UMASK: [&str; 3] = ["sh", "-c", "umask 022 && exec \"$0\" \"$@\""];
    let [shell, arguments @ ..] = WITH_UMASK;

    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--", shell]);
            command
        }
        None => Command::new(shell),
    };
    command.args(arguments).arg(program);
    command
}

/// Sends each line of a pipe to `lines`, from a thread that ends with the pipe.
fn forward_lines(pipe: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();

        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            }

            // The rest of an overlong line is dropped.
            line.truncate(MAX_LINE_BYTES);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(text).is_err() {
                return;
            }
        }
    });
}

/// Passes lines on until the program exits. Returns `None` if it had to be killed.
fn wait_with_output(
    child: &mut Child,
    lines: &Receiver<String>,
    timeout: Duration,
    on_line: &mut dyn FnMut(&str),
) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    let mut drain_until = None;

    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return wait_for_exit(child, deadline),
        }

        if Instant::now() > deadline {
            terminate(child)?;
            return Ok(None);
        }

        // A child of the program may hold the pipes after the program's exit.
        if let Some(status) = child.try_wait()? {
            let until = *drain_until.get_or_insert(Instant::now() + DRAIN_TIMEOUT);
            if Instant::now() > until {
                return Ok(Some(status));
            }
        }
    }
}

/// Waits for the exit of a program that has closed its outputs.
fn wait_for_exit(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }

        if Instant::now() > deadline {
            terminate(child)?;
            return Ok(None);
        }

        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends TERM to the process group, then KILL after the grace period.
fn terminate(child: &mut Child) -> std::io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));

    signal(Signal::TERM);
    let until = Instant::now() + GRACE_PERIOD;
    while Instant::now() < until && child.try_wait()?.is_none() {
        thread::sleep(Duration::from_millis(20));
    }

    signal(Signal::KILL);
    child.wait().map(|_| ())
}

/// The last lines of an output.
#[derive(Default)]
struct OutputTail(VecDeque<String>);

impl OutputTail {
    fn push(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }

        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }

        self.0.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        Vec::from(self.0.clone()).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str, timeout: Duration) -> Program {
        Program::new("a test", "sh", timeout).args(["-c", script])
    }

    #[test]
    fn captures_both_outputs() {
        let text = shell("echo one; echo two >&2", MINUTE).output().unwrap();
        assert!(text.contains("one\n") && text.contains("two\n"), "{text}");
    }

    #[test]
    fn a_failure_quotes_the_last_lines() {
        let script = "for i in $(seq 100); do echo line $i; done; exit 3";
        let error = shell(script, MINUTE)
            .run(&mut |_| {})
            .unwrap_err()
            .to_string();

        assert!(
            error.contains("exit status: 3") && error.contains("| line 100"),
            "{error}"
        );

        assert!(!error.contains("| line 80\n"), "{error}");
    }

    #[test]
    fn a_program_past_its_deadline_is_killed_with_its_children() {
        let start = Instant::now();
        let script = "sleep 600 & echo $!; sleep 600; wait";
        let mut child = String::new();
        let error = shell(script, Duration::from_millis(200))
            .run(&mut |line| child = line.to_owned())
            .unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(100));
        // The process that inherits the dead child may not have reaped it yet.
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = require_program("no-such-program", "tests", "no-such-package")
            .unwrap_err()
            .to_string();
        assert!(error.contains("apt-get install no-such-package"), "{error}");
    }
}
