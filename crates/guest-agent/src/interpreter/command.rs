use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fumehood_protocol::{EnvVars, ErrorType, Language, WireError};
use rustix::fs::{Access, access};

use super::interpreter::ExecMode;
use super::script_file::MAIN_SCRIPT;

/// Imported by Python at its start; waits for programs that arrive on descriptor 3.
const PYTHON: &str = include_str!("../../runners/python.py");
/// Loaded by the Python runner for contexts and preparations.
const PYTHON_KEEP: &str = include_str!("../../runners/keep.py");
/// Loaded by the Python runner to display values.
const PYTHON_DISPLAY: &str = include_str!("../../runners/display.py");
/// The matplotlib backend that goes with it.
const PYTHON_FIGURES: &str = include_str!("../../runners/figures.py");
/// Loaded by the Python runner when a program fails.
const PYTHON_FAILURE: &str = include_str!("../../runners/failure.py");
/// Runs the scripts of a context, each in the file on descriptor 3 when a message arrives on descriptor 4.
const SHELL: &str = include_str!("../../runners/shell.sh");
/// Waits in a new bash until the agent has written the script that it is to run.
const SHELL_WAIT: &str = include_str!("../../runners/wait.sh");
/// Waits for a program before bun runs main.ts.
const JAVASCRIPT: &str = include_str!("../../runners/javascript.ts");
/// Loaded by the JavaScript runner for contexts, and to display values.
const JAVASCRIPT_CONTEXT: &str = include_str!("../../runners/context.ts");
const JAVASCRIPT_REWRITE: &str = include_str!("../../runners/rewrite.ts");
const JAVASCRIPT_SHOW: &str = include_str!("../../runners/show.ts");

/// Finds the interpreters of this machine and knows their command lines.
#[derive(Debug)]
pub(crate) struct InterpreterCatalog {
    runner_dir: PathBuf,
    search_path: Vec<PathBuf>,
    /// Directories that programs of the user are searched in first.
    user_path: Vec<PathBuf>,
    /// Paths of interpreters that were found, by name.
    cache: Vec<(&'static str, CString)>,
}

/// The directory of the module that Python imports at its start, below that of the runners.
const PYTHON_SITE: &str = "python";

/// The command line of an interpreter, and how it gets its code.
#[derive(Debug)]
pub(crate) struct InterpreterCommand {
    pub(crate) path: CString,
    pub(crate) arguments: Vec<CString>,
    /// A variable that it is started with, as `NAME=VALUE`.
    pub(crate) variable: Option<CString>,
    /// The directory that it is started in; none = the working directory.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) delivery: CodeDelivery,
}

/// How code gets to an interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeDelivery {
    /// In a memory file on descriptor 3; messages are on 4 and control messages on 5. Bash reads a pipe one byte at a
    /// time, because it cannot seek in it.
    MemoryFile,
    /// In the message, on descriptor 3. The runner writes it to a file in the working directory, whose name is the last
    /// argument: bun then resolves imports, reports errors and maps lines as for any file.
    MainFile,
}

/// The directory of the runner of shell contexts, below that of the runners.
const SHELL_DIR: &str = "shell";

impl InterpreterCatalog {
    /// Writes the runners to `runner_dir`, a new directory that only the agent can write to. `path` is searched for
    /// interpreters as a shell would search it.
    ///
    /// # Errors
    /// Returns the error of the first file that cannot be written.
    pub(crate) fn new(runner_dir: PathBuf, path: &str) -> io::Result<Self> {
        fs::create_dir(&runner_dir)?;
        fs::create_dir(runner_dir.join(PYTHON_SITE))?;
        fs::write(
            runner_dir.join(PYTHON_SITE).join("sitecustomize.py"),
            PYTHON,
        )?;
        fs::write(runner_dir.join("keep.py"), PYTHON_KEEP)?;
        fs::write(runner_dir.join("display.py"), PYTHON_DISPLAY)?;
        fs::write(runner_dir.join("figures.py"), PYTHON_FIGURES)?;
        fs::write(runner_dir.join("failure.py"), PYTHON_FAILURE)?;
        fs::write(runner_dir.join("wait.sh"), SHELL_WAIT)?;
        fs::create_dir(runner_dir.join(SHELL_DIR))?;
        fs::write(
            runner_dir.join(SHELL_DIR).join(MAIN_SCRIPT),
            context_script(SHELL),
        )?;
        fs::write(runner_dir.join("javascript.ts"), JAVASCRIPT)?;
        fs::write(runner_dir.join("context.ts"), JAVASCRIPT_CONTEXT)?;
        fs::write(runner_dir.join("rewrite.ts"), JAVASCRIPT_REWRITE)?;
        fs::write(runner_dir.join("show.ts"), JAVASCRIPT_SHOW)?;

        Ok(Self {
            runner_dir,
            search_path: directories(path),
            user_path: Vec::new(),
            cache: Vec::new(),
        })
    }

    /// Searches programs that run as the user in these directories first.
    #[must_use]
    pub(crate) fn with_user_path(mut self, path: &str) -> Self {
        self.user_path = directories(path);
        self
    }

    /// Returns the command line of an interpreter that runs code of this language, in this mode.
    ///
    /// # Errors
    /// `agent_error` with the name of the interpreter if this machine lacks it.
    pub(crate) fn command(
        &mut self,
        language: Language,
        mode: ExecMode,
    ) -> Result<InterpreterCommand, WireError> {
        let (name, delivery) = match language {
            Language::Python => ("python3", CodeDelivery::MainFile),
            Language::Javascript => ("bun", CodeDelivery::MainFile),
            Language::Shell => ("bash", CodeDelivery::MemoryFile),
        };

        let path = self.resolve_interpreter(name)?;

        let argument = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let runner = |name: &str| argument(self.runner_dir.join(name).as_os_str().as_bytes());

        let rest = match language {
            // The path of the program's file is added at the start.
            Language::Python => Vec::new(),
            // Packages are installed only on request, not whenever code imports one.
            Language::Javascript => vec![
                argument(b"--no-install"),
                argument(b"--preload"),
                runner("javascript.ts"),
            ],
            Language::Shell if mode == ExecMode::Context => {
                vec![argument(MAIN_SCRIPT.as_bytes())]
            }
            // The name of its script follows.
            Language::Shell => Vec::new(),
        };

        // Bash waits in its startup file, and then opens its script in the working directory; or it starts in the
        // directory of the runner of contexts, which then changes to the working directory.
        let is_context = mode == ExecMode::Context;
        let (variable, directory) = match language {
            Language::Shell if is_context => (None, Some(self.runner_dir.join(SHELL_DIR))),
            Language::Shell => {
                let path = self.runner_dir.join("wait.sh");
                let path = path.as_os_str().as_bytes();
                (Some(argument(&[b"BASH_ENV=", path].concat())), None)
            }
            _ => (None, None),
        };

        let arguments = std::iter::once(argument(name.as_bytes()))
            .chain(rest)
            .collect();

        Ok(InterpreterCommand {
            path,
            arguments,
            variable,
            directory,
            delivery,
        })
    }

    /// Adds the directory of the Python runner to these variables, as the first entry of `PYTHONPATH`. The runner removes
    /// it before the program starts.
    pub(crate) fn with_python_path(&self, variables: &EnvVars) -> EnvVars {
        let name = "PYTHONPATH";
        let mut path = self.runner_dir.join(PYTHON_SITE).display().to_string();

        let given = variables.iter().find(|(given, _)| *given == name);
        if let Some((_, given)) = given {
            path = [&path, ":", given].concat();
        }

        let path: EnvVars = [(name, path)].into_iter().collect();
        path.over(variables)
    }

    /// Resolves the first word of a command that runs as the user, or as root. A word with a `/` is a path; any other is
    /// searched for.
    ///
    /// # Errors
    /// `path_error` if there is no such program.
    pub(crate) fn resolve_program(&self, word: &str, is_root: bool) -> Result<CString, WireError> {
        let path = if word.contains('/') {
            Some(PathBuf::from(word))
        } else {
            let of_user = (!is_root).then(|| find_program(&self.user_path, word));
            of_user.flatten().or_else(|| self.search(word))
        };

        let path = path.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        path.ok_or_else(|| {
            let searched = self.searched_directories();
            let message = format!("there is no program `{word}` in {searched}");
            let error = WireError::new(ErrorType::PathError, message);
            error.with_errno(rustix::io::Errno::NOENT.raw_os_error())
        })
    }

    fn resolve_interpreter(&mut self, name: &'static str) -> Result<CString, WireError> {
        if let Some((_, path)) = self.cache.iter().find(|(known, _)| *known == name) {
            return Ok(path.clone());
        }

        let path = self.search(name);
        let path = path.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
        let path = path.ok_or_else(|| {
            let searched = self.searched_directories();
            let message = format!("this machine has no `{name}` in {searched}; install it there");
            WireError::new(ErrorType::AgentError, message)
        })?;
        self.cache.push((name, path.clone()));

        Ok(path)
    }

    fn search(&self, name: &str) -> Option<PathBuf> {
        find_program(&self.search_path, name)
    }

    fn searched_directories(&self) -> String {
        let directories = self.search_path.iter();
        let shown: Vec<_> = directories.map(|path| path.display().to_string()).collect();
        shown.join(":")
    }
}

impl Drop for InterpreterCatalog {
    fn drop(&mut self) {
        // Something else may have cleaned up the directory for temporary files already.
        let _ = fs::remove_dir_all(&self.runner_dir);
    }
}

/// Returns the script that a bash of a context starts with: it enters the working directory, its argument, and runs the
/// runner, which runs itself again from a variable after an interrupt.
fn context_script(runner: &str) -> String {
    let runner = one_line(runner);
    let quoted = runner.replace('\'', r"'\''");
    format!(
        "cd -- \"$1\"; shift; unset OLDPWD; export OLDPWD; SECONDS=0; __y='{quoted}'; {runner}\n"
    )
}

/// Joins the lines of a script into one, without its comments.
fn one_line(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let code: Vec<_> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    code.join(" ")
}

/// Returns the directories of a search path. Relative ones are skipped.
fn directories(path: &str) -> Vec<PathBuf> {
    let parts = path.split(':').filter(|part| part.starts_with('/'));
    parts.map(PathBuf::from).collect()
}

fn find_program(directories: &[PathBuf], name: &str) -> Option<PathBuf> {
    let mut paths = directories.iter().map(|directory| directory.join(name));
    paths.find(|path| is_program(path))
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
        let runner_dir = directory.path().join("runners");
        let mut interpreters =
            InterpreterCatalog::new(runner_dir.clone(), "/nowhere:relative").unwrap();
        let error = interpreters
            .command(Language::Javascript, ExecMode::OneShot)
            .unwrap_err();
        assert_eq!(error.error_type, ErrorType::AgentError);
        assert!(error.message.contains("`bun` in /nowhere;"), "{error}");
        drop(interpreters);
        assert!(!runner_dir.exists());
    }

    #[test]
    fn only_the_user_runs_programs_of_packages() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let [system, user] = ["system", "user"].map(|name| {
            let place = directory.path().join(name);
            fs::create_dir(&place).unwrap();
            fs::write(place.join("tool"), "").unwrap();
            fs::set_permissions(place.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
            place.display().to_string()
        });

        let runner_dir = directory.path().join("runners");
        let catalog = InterpreterCatalog::new(runner_dir, &system).unwrap();
        let catalog = catalog.with_user_path(&user);
        let found = |is_root| catalog.resolve_program("tool", is_root).unwrap();
        assert_eq!(found(false).to_str().unwrap(), format!("{user}/tool"));
        assert_eq!(found(true).to_str().unwrap(), format!("{system}/tool"));
    }

    #[test]
    fn the_shell_runner_is_one_line() {
        assert_eq!(
            one_line("# a\nif b;\n  # c\n  then d;\nfi\n"),
            "if b; then d; fi"
        );
        assert_eq!(context_script(SHELL).lines().count(), 1);
    }
}
