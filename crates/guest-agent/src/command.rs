use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fumehood_protocol::{ErrorType, Language, WireError};
use rustix::fs::{Access, access};

/// Runs Python programs that come on descriptor 3.
const PYTHON: &str = include_str!("../runners/python.py");
/// What it needs besides when it is kept.
const PYTHON_KEEP: &str = include_str!("../runners/keep.py");
/// What it needs besides when values are to be shown.
const PYTHON_DISPLAY: &str = include_str!("../runners/display.py");
/// What matplotlib draws on then.
const PYTHON_FIGURES: &str = include_str!("../runners/figures.py");
/// What it needs besides when the program fails.
const PYTHON_FAILURE: &str = include_str!("../runners/failure.py");
/// Runs scripts that lie in the file of descriptor 3, when a word comes on descriptor 4.
const SHELL: &str = include_str!("../runners/shell.sh");
/// Waits before bun runs main.ts.
const JAVASCRIPT: &str = include_str!("../runners/javascript.ts");
/// What it needs besides when it is kept, or when values are to be shown.
const JAVASCRIPT_CONTEXT: &str = include_str!("../runners/context.ts");
const JAVASCRIPT_REWRITE: &str = include_str!("../runners/rewrite.ts");
const JAVASCRIPT_SHOW: &str = include_str!("../runners/show.ts");

/// The interpreters of this machine, and how each is given its code.
#[derive(Debug)]
pub(crate) struct Interpreters {
    runners: PathBuf,
    search: Vec<PathBuf>,
    found: Vec<(&'static str, CString)>,
}

/// An interpreter's command line, and the way its code takes.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: CString,
    pub(crate) arguments: Vec<CString>,
    pub(crate) feed: Feed,
}

/// How code gets to its interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// In the message, on descriptor 3.
    Message,
    /// As a file in memory on descriptor 3, with messages on 4 and words on 5: bash reads what cannot be sought in
    /// one byte at a time.
    Memory,
    /// In the message, on descriptor 3; its runner puts it into a file in the working directory, named by the
    /// last argument, where bun is to resolve imports, report errors and map lines as for any file.
    File,
}

impl Interpreters {
    /// Writes the runners to `runners`, a directory that is made here and that only the agent can
    /// write to. Interpreters are looked for in `path`, as a shell would.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(runners: PathBuf, path: &str) -> io::Result<Self> {
        fs::create_dir(&runners)?;
        fs::write(runners.join("python.py"), PYTHON)?;
        fs::write(runners.join("keep.py"), PYTHON_KEEP)?;
        fs::write(runners.join("display.py"), PYTHON_DISPLAY)?;
        fs::write(runners.join("figures.py"), PYTHON_FIGURES)?;
        fs::write(runners.join("failure.py"), PYTHON_FAILURE)?;
        fs::write(runners.join("javascript.ts"), JAVASCRIPT)?;
        fs::write(runners.join("context.ts"), JAVASCRIPT_CONTEXT)?;
        fs::write(runners.join("rewrite.ts"), JAVASCRIPT_REWRITE)?;
        fs::write(runners.join("show.ts"), JAVASCRIPT_SHOW)?;
        let search = path
            .split(':')
            .filter(|p| p.starts_with('/'))
            .map(PathBuf::from)
            .collect();
        Ok(Self {
            runners,
            search,
            found: Vec::new(),
        })
    }

    /// The command line that runs code of this language.
    ///
    /// # Errors
    /// `agent_error` that names the program which this machine lacks.
    pub(crate) fn command(&mut self, language: Language) -> Result<Command, WireError> {
        let (name, feed) = match language {
            Language::Python => ("python3", Feed::Message),
            Language::Javascript => ("bun", Feed::File),
            Language::Shell => ("bash", Feed::Memory),
        };
        let program = self.find(name)?;
        let argument = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let rest = match language {
            Language::Python => vec![argument(
                self.runners.join("python.py").as_os_str().as_bytes(),
            )],
            // Packages are installed when a client asks for it, not whenever code names one.
            Language::Javascript => vec![
                argument(b"--no-install"),
                argument(b"--preload"),
                argument(self.runners.join("javascript.ts").as_os_str().as_bytes()),
            ],
            Language::Shell => vec![
                argument(b"-c"),
                argument(one_line(SHELL).as_bytes()),
                argument(b"bash"),
            ],
        };
        let arguments = std::iter::once(argument(name.as_bytes()))
            .chain(rest)
            .collect();
        Ok(Command {
            program,
            arguments,
            feed,
        })
    }

    /// A program that is run by this word: one with a `/` as it is, another as it is found.
    ///
    /// # Errors
    /// `path_error`: there is none.
    pub(crate) fn program(&self, word: &str) -> Result<CString, WireError> {
        let found = if word.contains('/') {
            Some(PathBuf::from(word))
        } else {
            self.look_for(word)
        };
        let path = found.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        path.ok_or_else(|| {
            let message = format!("there is no program `{word}` in {}", self.searched());
            let error = WireError::new(ErrorType::PathError, message);
            error.with_errno(rustix::io::Errno::NOENT.raw_os_error())
        })
    }

    fn look_for(&self, name: &str) -> Option<PathBuf> {
        let search = self.search.iter();
        let mut paths = search.map(|directory| directory.join(name));
        paths.find(|path| is_program(path))
    }

    fn searched(&self) -> String {
        let search = self.search.iter();
        let searched: Vec<_> = search.map(|path| path.display().to_string()).collect();
        searched.join(":")
    }

    fn find(&mut self, name: &'static str) -> Result<CString, WireError> {
        if let Some((_, path)) = self.found.iter().find(|(known, _)| *known == name) {
            return Ok(path.clone());
        }
        let path = self.look_for(name);
        let path = path.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        let path = path.ok_or_else(|| {
            let message = format!(
                "this machine has no `{name}` in {}; install it there",
                self.searched()
            );
            WireError::new(ErrorType::AgentError, message)
        })?;
        self.found.push((name, path.clone()));
        Ok(path)
    }
}

impl Drop for Interpreters {
    fn drop(&mut self) {
        // A directory for temporary files is swept by others too: what is gone is gone.
        let _ = fs::remove_dir_all(&self.runners);
    }
}

/// A script as one line, without its comments.
fn one_line(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let code: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    code.join(" ")
}

fn is_program(path: &Path) -> bool {
    access(path, Access::EXEC_OK).is_ok() && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let runners = directory.path().join("runners");
        let mut interpreters = Interpreters::new(runners.clone(), "/nowhere:relative").unwrap();
        let error = interpreters.command(Language::Javascript).unwrap_err();
        assert_eq!(error.error_type, ErrorType::AgentError);
        assert!(error.message.contains("`bun` in /nowhere;"), "{error}");
        drop(interpreters);
        assert!(!runners.exists());
    }

    #[test]
    fn the_shell_runner_is_one_line() {
        assert_eq!(
            one_line("# a\nif b;\n  # c\n  then d;\nfi\n"),
            "if b; then d; fi"
        );
        assert_eq!(one_line(SHELL).lines().count(), 1);
    }
}
