use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use fumehood_protocol::{EnvVars, GuestPath, Language};
use rustix::fs::{SeekFrom, seek};

use super::script_file::ScriptFile;
use crate::process::{Process, Usage};

/// An interpreter: its process, and the agent's ends of its pipes. It waits for code, or runs some.
#[derive(Debug)]
pub(crate) struct Interpreter {
    pub(crate) language: Language,
    pub(crate) process: Process,
    /// Standard output, standard error and results. `None`: the program has closed the pipe, or the language has no
    /// results.
    pub(crate) outputs: [Option<OwnedFd>; 3],
    /// The reading end of its standard input. The agent opens a writing end for an exec that has input.
    pub(crate) stdin_reader: OwnedFd,
    /// Carries messages to the interpreter. `None`: it was started with its only program.
    pub(crate) message_pipe: Option<OwnedFd>,
    /// Carries control messages to the agent, one per line: `r` when a program starts, its exit code when it has
    /// ended. Interpreters that send no control messages close it when a program starts. It also carries the report of
    /// a failed start.
    pub(crate) control_pipe: OwnedFd,
    /// For bash, the file that gets variables and code. For bun, its entry file, which it loads after a program that
    /// runs as a function.
    pub(crate) code_file: Option<File>,
    /// The script that a waiting bash is going to open, still empty.
    pub(crate) script: Option<ScriptFile>,
    /// The usage at the end of the last exec.
    pub(crate) usage: Usage,
    /// Its random number generators may have the same state as those of another VM.
    pub(crate) reseed: bool,
    /// When its state was saved, it had drawn random bytes from its own generator, and may hold some of them ready.
    pub(crate) has_drawn: bool,
    /// It was started before a refresh added the variables that programs must have.
    pub(crate) needs_environment: bool,
    /// It has run code of the user.
    pub(crate) has_run_user_code: bool,
}

/// What happens to an interpreter after an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecMode {
    /// It ends with the program.
    OneShot,
    /// It waits for another program; this one leaves nothing behind.
    Prepare,
    /// It keeps the program's state.
    Context,
}

/// A program, as the message to its interpreter describes it.
#[derive(Debug)]
pub(crate) struct ProgramSpec {
    pub(crate) mode: ExecMode,
    /// The client wants values to be displayed.
    pub(crate) display: bool,
    /// The program has its own standard input.
    pub(crate) stdin: bool,
    /// The working directory.
    pub(crate) cwd: Option<GuestPath>,
    pub(crate) variables: EnvVars,
    /// The arguments, without the program's name.
    pub(crate) args: Vec<String>,
    pub(crate) code: String,
}

/// Flags of a message.
const DISPLAY: u8 = 1;
const STDIN: u8 = 2;
const DROP_DRAWN: u8 = 4;

impl Interpreter {
    /// Encodes the message that starts a program.
    ///
    /// The message consists of:
    /// - the mode: `o` for one shot, `p` for a preparation, `c` for a context; `f` for bun if the program must be a
    ///   file, because its entry file is no longer empty;
    /// - a byte of flags: [`DISPLAY`], [`STDIN`], and [`DROP_DRAWN`] for bun if random bytes that it drew ahead must not be
    ///   used;
    /// - a seed of 16 bytes; 0 means that no reseeding is needed;
    /// - the sizes of variables, code and arguments, 4 bytes each, most significant byte first;
    /// - the variables, each as `NAME=VALUE` and NUL; the working directory comes first, as a variable with an empty
    ///   name;
    /// - the arguments, each followed by NUL;
    /// - the code.
    ///
    /// For bash, variables, arguments and code are written to its file instead, each followed by NUL; a script that runs
    /// once is a separate file. The message is then a line, `MODE SEED COUNT`, with a decimal seed of 32 bits and the
    /// number of arguments; or, outside contexts, `MODE SEED COUNT HOSTNAME` with the number of variables.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub(crate) fn encode_message(&mut self, program: &ProgramSpec) -> std::io::Result<Vec<u8>> {
        let mode = program.mode;
        let letter = match mode {
            ExecMode::OneShot => b'o',
            ExecMode::Prepare => b'p',
            ExecMode::Context => b'c',
        };

        let seed = if self.reseed { random()? } else { 0 };
        let drops_drawn = self.reseed && self.has_drawn;

        // A preparation draws random numbers that are never used. It does so only to have that code ready.
        let is_preparation = mode == ExecMode::Prepare;
        self.reseed = is_preparation;
        // A preparation leaves no variables behind.
        self.needs_environment &= is_preparation;
        self.has_run_user_code |= !is_preparation;

        let directory = program
            .cwd
            .iter()
            .map(|path| ["=", path.as_str(), "\0"].concat());

        let pairs = program.variables.iter();
        let pairs = pairs.map(|(name, value)| [name, "=", value, "\0"].concat());
        let variables: String = directory.chain(pairs).collect();
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(program.display, DISPLAY)
            | flag(program.stdin, STDIN)
            | flag(drops_drawn, DROP_DRAWN);

        let arguments = program.args.iter();
        let arguments: String = arguments.flat_map(|text| [text, "\0"]).collect();
        let code = &program.code;

        match (self.language, &self.code_file) {
            (Language::Shell, Some(script)) => {
                // Bash's generator takes no larger seed.
                let seed = seed & u128::from(u32::MAX);
                let text = match mode {
                    ExecMode::OneShot => variables,
                    _ => [&variables, &arguments, code.as_str(), "\0"].concat(),
                };
                script.set_len(0)?;
                script.write_all_at(text.as_bytes(), 0)?;
                // The offset is shared with bash, which continues to read from there.
                seek(script, SeekFrom::Start(0))?;
                let count = match mode {
                    ExecMode::OneShot => program.variables.iter().count(),
                    _ => program.args.len(),
                };
                // A bash that waits has the host name of the guest in which it was started.
                let uname = rustix::system::uname();
                let host = match mode {
                    ExecMode::Context => String::new(),
                    _ => format!(" {}", uname.nodename().to_string_lossy()),
                };
                Ok(format!("{} {seed} {count}{host}\n", char::from(letter)).into_bytes())
            }
            (Language::Javascript, Some(entry)) if mode == ExecMode::OneShot => {
                let metadata = entry.metadata()?;
                let is_pristine = metadata.len() == 0 && metadata.nlink() > 0;
                let letter = if is_pristine { letter } else { b'f' };
                Ok(frame([letter, flags], seed, [&variables, &arguments, code]))
            }
            _ => Ok(frame([letter, flags], seed, [&variables, &arguments, code])),
        }
    }
}

/// Frames a message with these sections: variables, arguments, code.
fn frame(head: [u8; 2], seed: u128, sections: [&str; 3]) -> Vec<u8> {
    // The limits of all are far below 4 GiB.
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let [variables, arguments, code] = sections;
    let bytes: usize = sections.iter().map(|section| section.len()).sum();

    let mut message = Vec::with_capacity(HEAD_BYTES + bytes);
    message.extend_from_slice(&head);
    message.extend_from_slice(&seed.to_be_bytes());
    for section in [variables, code, arguments] {
        message.extend_from_slice(&size(section));
    }
    for section in sections {
        message.extend_from_slice(section.as_bytes());
    }

    message
}

/// Length of a message before its sections, in bytes.
const HEAD_BYTES: usize = 30;

/// Returns 128 random bits, never 0.
fn random() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes) | 1)
}

/// Variables that an interpreter, or a library that it may have loaded, reads only when it starts: they cannot be set in
/// one that is running. `docs/reference/protocol.md` lists them.
const AT_START: [&str; 10] = [
    "CLICOLOR",
    "FORCE_COLOR",
    "HOME",
    "LANG",
    "LANGUAGE",
    "NO_COLOR",
    "OMP_NUM_THREADS",
    "OPENSSL_CONF",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
const AT_START_PREFIXES: [&str; 5] = ["BUN_", "LC_", "MALLOC_", "NODE_", "PYTHON"];

/// Whether an interpreter reads this variable only when it starts.
pub(crate) fn acts_at_start(name: &str) -> bool {
    AT_START.contains(&name) || AT_START_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Whether all of these variables can be set in a running interpreter.
pub(crate) fn can_be_set_later(variables: &EnvVars) -> bool {
    !variables.iter().any(|(name, _)| acts_at_start(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_variables_that_act_at_start() {
        let later = |name: &str| can_be_set_later(&[(name, "x")].into_iter().collect());
        assert!(later("A") && later("TZ") && later("XPYTHON"));

        for name in [
            "PYTHONHASHSEED",
            "LANG",
            "LC_ALL",
            "NODE_ENV",
            "MALLOC_ARENA_MAX",
        ] {
            assert!(!later(name), "{name}");
        }
    }

    #[test]
    fn documentation_lists_the_variables() {
        let page = include_str!("../../../../docs/reference/protocol.md");
        let quoted = |names: &[&str], star: &str| {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}{star}`")).collect();
            names.join(", ")
        };
        assert!(page.contains(&quoted(&AT_START, "")), "the names");
        assert!(
            page.contains(&quoted(&AT_START_PREFIXES, "*")),
            "the prefixes"
        );
    }
}
