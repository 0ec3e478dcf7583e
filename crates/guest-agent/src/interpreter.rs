use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use fumehood_protocol::{EnvVars, GuestPath, Language};
use rustix::fs::{SeekFrom, seek};

use crate::cgroup::Usage;
use crate::process::Process;

/// An interpreter: its process, and our ends of what it holds. It waits for code, or runs some.
#[derive(Debug)]
pub(crate) struct Interpreter {
    pub(crate) language: Language,
    pub(crate) process: Process,
    /// Where standard output, standard error and results come from; none when the program has closed it, or
    /// where the language has no results.
    pub(crate) outputs: [Option<OwnedFd>; 3],
    /// The end that its standard input is read from: with a writer of ours beside it, an exec has input.
    pub(crate) input: OwnedFd,
    /// Where messages go to.
    pub(crate) messages: OwnedFd,
    /// Where its words come from: `r` when a program begins, a number when one has ended, each in a line.
    /// Those that do not speak close it when a program begins. A failure to start comes here too.
    pub(crate) words: OwnedFd,
    /// Where bash's code is put; bun's entry, which it loads after the programs that it runs as functions.
    pub(crate) script: Option<File>,
    /// What it had used when its last exec ended.
    pub(crate) used: Usage,
    /// Its generators of random numbers may have the state of another VM's.
    pub(crate) reseed: bool,
    /// It was started before the environment was brought that programs are to have.
    pub(crate) lacks_environment: bool,
    /// Programs of the user's have run in it.
    pub(crate) tainted: bool,
}

/// What becomes of an interpreter after an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It ends with the program.
    Once,
    /// It goes on waiting; the program leaves nothing behind.
    Prepare,
    /// It keeps the program's state.
    Context,
}

/// A program, as its interpreter is told of it.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) mode: Mode,
    /// Values are to be shown.
    pub(crate) display: bool,
    /// It has a standard input of its own.
    pub(crate) stdin: bool,
    /// The working directory.
    pub(crate) cwd: Option<GuestPath>,
    pub(crate) variables: EnvVars,
    pub(crate) code: String,
}

/// Flags of a message.
const DISPLAY: u8 = 1;
const STDIN: u8 = 2;

impl Interpreter {
    /// The message that begins a program: the mode's letter, `f` for bun where its entry is no empty file any
    /// more and the program must be one; a byte of flags, [`DISPLAY`] and [`STDIN`]; a seed of 16 bytes, of
    /// which 0 asks for no
    /// reseeding; the sizes of what follows, in 4 bytes each, the most significant first; the variables,
    /// `NAME=VALUE` and NUL each, before them the working directory as a variable without name; the code. For
    /// bash, variables and code are put into its file instead,
    /// each with a NUL, and the message is a line, `MODE SEED`, with a decimal seed of 32 bits.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn message(&mut self, text: &Text) -> std::io::Result<Vec<u8>> {
        let Text { mode, code, .. } = text;
        let mode = *mode;
        let letter = match mode {
            Mode::Once => b'o',
            Mode::Prepare => b'p',
            Mode::Context => b'c',
        };
        let seed = if self.reseed { random()? } else { 0 };
        // What a preparation draws will never be seen again; that it draws at all has that code ready.
        self.reseed = mode == Mode::Prepare;
        // A preparation leaves no variable behind.
        self.lacks_environment &= mode == Mode::Prepare;
        self.tainted |= mode != Mode::Prepare;
        let directory = text
            .cwd
            .iter()
            .map(|path| ["=", path.as_str(), "\0"].concat());
        let pairs = text.variables.iter();
        let pairs = pairs.map(|(name, value)| [name, "=", value, "\0"].concat());
        let variables: String = directory.chain(pairs).collect();
        let flag = |wanted: bool, flag: u8| if wanted { flag } else { 0 };
        let flags = flag(text.display, DISPLAY) | flag(text.stdin, STDIN);
        match (self.language, &self.script) {
            (Language::Shell, Some(script)) => {
                // As much as bash's generator takes.
                let seed = seed & u128::from(u32::MAX);
                let text = [variables.as_bytes(), code.as_bytes(), b"\0"].concat();
                script.set_len(0)?;
                script.write_all_at(&text, 0)?;
                // The place is shared with bash, which reads on from it.
                seek(script, SeekFrom::Start(0))?;
                Ok(format!("{} {seed}\n", char::from(letter)).into_bytes())
            }
            (Language::Javascript, Some(entry)) if mode == Mode::Once => {
                let is = entry.metadata()?;
                let letter = if is.len() == 0 && is.nlink() > 0 {
                    letter
                } else {
                    b'f'
                };
                Ok(message([letter, flags], seed, &variables, code))
            }
            _ => Ok(message([letter, flags], seed, &variables, code)),
        }
    }
}

fn message(head: [u8; 2], seed: u128, variables: &str, code: &str) -> Vec<u8> {
    // Both are bounded by limits far below.
    let size = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = Vec::with_capacity(HEAD_BYTES + variables.len() + code.len());
    message.extend_from_slice(&head);
    message.extend_from_slice(&seed.to_be_bytes());
    message.extend_from_slice(&size(variables));
    message.extend_from_slice(&size(code));
    message.extend_from_slice(variables.as_bytes());
    message.extend_from_slice(code.as_bytes());
    message
}

/// What stands before variables and code.
const HEAD_BYTES: usize = 26;

/// 128 random bits, never 0.
fn random() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u128::from_le_bytes(bytes) | 1)
}

/// Variables that an interpreter, or a library that it may have loaded, looks at when it starts: they
/// cannot be set in one that waits. `docs/reference/protocol.md` lists them.
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

/// Whether an interpreter looks at this variable only when it starts.
pub(crate) fn acts_at_start(name: &str) -> bool {
    AT_START.contains(&name) || AT_START_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Whether all of these variables can be set in an interpreter that has started.
pub(crate) fn can_be_set_later(variables: &EnvVars) -> bool {
    !variables.iter().any(|(name, _)| acts_at_start(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_act_at_a_start_are_known() {
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
    fn the_documentation_lists_them() {
        let page = include_str!("../../../docs/reference/protocol.md");
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
