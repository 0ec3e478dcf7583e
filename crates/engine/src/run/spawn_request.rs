use std::time::Duration;

use fumehood_protocol::{
    EnvVars, GuestPath, IdempotencyKey, Limits, PtySize, Spawn, User, WireError,
};

use super::request::check_timeout;
use crate::error::{Error, ErrorKind};

/// A program to start in a [`Sandbox`](crate::Sandbox).
///
/// ```no_run
/// # async fn example(sandbox: fumehood_engine::Sandbox) -> Result<(), fumehood_engine::Error> {
/// use fumehood_engine::{Event, SpawnRequest};
///
/// let mut cat = sandbox.spawn(&SpawnRequest::new(["cat"]).stdin())?;
/// let mut input = cat.input();
/// input.write("hello\n").await?;
/// input.close().await;
/// while let Some(event) = cat.next().await {
///     if let Event::Stdout(bytes) = event {
///         assert_eq!(&bytes[..], b"hello\n");
///     }
/// }
/// assert_eq!(cat.outcome().await?.exit_code, Some(0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SpawnRequest {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    pty: Option<(u16, u16)>,
    stdin: bool,
    tag: Option<String>,
    timeout_s: u64,
    is_root: bool,
    idempotency_key: Option<String>,
}

impl SpawnRequest {
    /// Creates a request for a program and its arguments. A program without `/` is searched for in the guest's
    /// `PATH`.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            pty: None,
            stdin: false,
            tag: None,
            timeout_s: 0,
            is_root: false,
            idempotency_key: None,
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory in the guest, absolute or relative to the user's home.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Gives the program a terminal with this many lines and columns. Its output arrives as
    /// [`Event::Stdout`](crate::Event::Stdout), and it has an input.
    #[must_use]
    pub fn pty(mut self, rows: u16, cols: u16) -> Self {
        self.pty = Some((rows, cols));
        self
    }

    /// Gives the program a standard input, written by [`Run::input`](crate::Run::input).
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Sets a label that is shown in lists; at most 128 bytes.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Sets the timeout, in seconds; 0 = none.
    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// Runs as the guest's root, if the sandbox allows that
    /// ([`SandboxBuilder::allow_root`](crate::SandboxBuilder::allow_root)).
    #[must_use]
    pub fn root(mut self) -> Self {
        self.is_root = true;
        self
    }

    /// As [`RunRequest::idempotency_key`](crate::RunRequest::idempotency_key). It also makes it possible to detach
    /// from the program and attach to it again.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Validates the request; returns the message to send, and the timeout.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the value and its limit.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(Spawn, Option<Duration>), Error> {
        check_timeout(self.timeout_s, limits)?;
        let mut spawn = Spawn::new(self.argv.iter().cloned());
        spawn.env_vars = self.env.iter().cloned().collect::<EnvVars>();
        spawn.cwd = self.cwd.as_deref().map(GuestPath::new);
        spawn.pty = self.pty.map(|(rows, cols)| PtySize { rows, cols });
        spawn.stdin = self.stdin;
        spawn.tag.clone_from(&self.tag);
        spawn.timeout = Some(i64::try_from(self.timeout_s).unwrap_or(i64::MAX));
        spawn.user = self.is_root.then_some(User::Root);
        spawn.idempotency_key = self.idempotency_key.as_deref().map(IdempotencyKey::new);

        // The agent knows whether the sandbox allows root.
        let limits = &Limits {
            allow_root: 1,
            ..*limits
        };

        let invalid = |error: WireError| Error::new(ErrorKind::Invalid, error.message);
        spawn.check(limits).map_err(invalid)?;
        let timeout = spawn.timeout_s(limits).map_err(invalid)?;

        Ok((spawn, timeout.map(Duration::from_secs)))
    }
}
