//! A pseudoterminal on which a test runs the command interactively.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::{program, wait_until};

/// A pseudoterminal, and all output on it.
#[derive(Debug)]
pub struct Pty {
    ours: File,
    /// Kept open, since the test reads its modes after the command has ended.
    theirs: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
    /// The number of bytes that were searched already.
    looked_at: usize,
}

impl Pty {
    /// Opens a pseudoterminal of this size.
    ///
    /// # Panics
    /// Panics if that fails.
    #[must_use]
    pub fn new(rows: u16, cols: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let open = || {
            let ours = openpt(flags | OpenptFlags::CLOEXEC)?;
            grantpt(&ours)?;
            unlockpt(&ours)?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let theirs = rustix::fs::open(ptsname(&ours, Vec::new())?, flags, Mode::empty())?;
            rustix::io::Result::Ok((ours, theirs))
        };

        let (ours, theirs) = open().unwrap_or_else(|e| panic!("there is no terminal: {e}"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ours = File::from(ours);
        let mut reader = ours.try_clone().unwrap_or_else(|e| panic!("{e}"));
        let screen = seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
                screen.extend_from_slice(&bytes[..len]);
            }
        });

        let pty = Self {
            ours,
            theirs,
            seen,
            looked_at: 0,
        };
        pty.resize(rows, cols);

        pty
    }

    /// Runs the command on it in a new session, as a terminal window does, and returns the command's
    /// process.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Child {
        self.run_with_env(args, &[])
    }

    /// Runs the command on it as [`run`](Self::run) does, with these environment variables.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn run_with_env(&self, args: &[&str], variables: &[(&str, &OsStr)]) -> Child {
        let end = || {
            let copy = self.theirs.as_fd().try_clone_to_owned();
            copy.unwrap_or_else(|e| panic!("{e}"))
        };

        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(program())
            .args(args)
            .env("TERM", "xterm-256color")
            .envs(variables.iter().copied());
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn();

        child.unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// Starts a REPL whose history is in `state`, and not in the directory of the user who tests.
    ///
    /// # Panics
    /// Panics if it cannot be started.
    #[must_use]
    pub fn run_repl(&self, language: &str, state: &Path) -> Child {
        let variables = [
            ("XDG_STATE_HOME", state.as_os_str()),
            ("TMPDIR", state.as_os_str()),
        ];
        self.run_with_env(&["repl", "-l", language], &variables)
    }

    /// Waits for the next prompt of a REPL. Its text is no sign of that: it is drawn again for each key.
    ///
    /// # Panics
    /// Panics after the deadline.
    pub fn wait_for_prompt(&mut self) {
        self.wait_for("\x1b[?2004h");
    }

    /// Types text.
    ///
    /// # Panics
    /// Panics if the terminal is closed.
    pub fn type_in(&mut self, text: &str) {
        let typed = self.ours.write_all(text.as_bytes());
        typed.unwrap_or_else(|e| panic!("{text:?} cannot be typed: {e}"));
    }

    /// Changes its size, of which the kernel notifies the program on it.
    ///
    /// # Panics
    /// Panics if the terminal is closed.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };

        let set = tcsetwinsize(&self.ours, size);
        set.unwrap_or_else(|e| panic!("no size can be set: {e}"));
    }

    /// Returns its modes.
    ///
    /// # Panics
    /// Panics if the terminal is closed.
    #[must_use]
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap_or_else(|e| panic!("no modes can be read: {e}"))
    }

    /// Whether it is in raw mode.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = self.modes().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
    }

    /// Waits until this text is output after the text of the previous call, and returns the output before it.
    ///
    /// # Panics
    /// Panics if it is not output in time.
    pub fn wait_for(&mut self, text: &str) -> String {
        let (from, seen) = (self.looked_at, self.seen.clone());
        let mut found = None;
        let look = || {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let mut places = from..=seen.len().saturating_sub(text.len());
            found = places.find(|at| seen[*at..].starts_with(text.as_bytes()));
            found.is_some()
        };

        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(&format!("{text:?}"), look);
        }));

        let screen = self.screen();
        let (Ok(()), Some(at)) = (waited, found) else {
            panic!("{text:?} is not seen; this is: {screen}");
        };

        let bytes = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = String::from_utf8_lossy(&bytes[from..at]).into_owned();
        self.looked_at = at + text.len();

        before
    }

    /// Returns all output so far.
    #[must_use]
    pub fn screen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }
}
