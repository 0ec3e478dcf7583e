use std::time::Duration;

use fumehood_protocol::{ContextName, EnvVars, Exec, GuestPath, IdempotencyKey, Language, Limits};

use crate::config::DEFAULT_MEMORY_MIB;
use crate::error::{Error, ErrorKind};
use crate::network::{Network, Prepared};
use crate::packages::Asked;

/// Seconds that code may run unless a request says otherwise.
const DEFAULT_TIMEOUT_S: u64 = 30;

/// The least memory of a guest in MiB: kernel, agent and an interpreter fit.
const MIN_MEMORY_MIB: u32 = 96;

/// The most memory of a guest in MiB, 1 TiB; what this host can give is checked when it is asked for.
const MAX_MEMORY_MIB: u32 = 1024 * 1024;

/// Code to be run in a VM of its own.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub(crate) language: Language,
    pub(crate) code: String,
    env: Vec<(String, String)>,
    timeout_s: u64,
    memory_mib: Option<u32>,
    context: Option<String>,
    fresh_interpreter: bool,
    stdin: bool,
    display: bool,
    cwd: Option<String>,
    idempotency_key: Option<String>,
    network: Option<Network>,
    pub(crate) packages: Asked,
}

impl RunRequest {
    /// Memory of a guest unless a request says otherwise, in MiB.
    pub const DEFAULT_MEMORY_MIB: u32 = DEFAULT_MEMORY_MIB;

    /// Runs `code` with 512 MiB of memory, for 30 s at most.
    #[must_use]
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            language,
            code: code.into(),
            env: Vec::new(),
            timeout_s: DEFAULT_TIMEOUT_S,
            memory_mib: None,
            context: None,
            fresh_interpreter: false,
            stdin: false,
            display: false,
            cwd: None,
            idempotency_key: None,
            network: None,
            packages: Asked::default(),
        }
    }

    /// Gives the VM a network. A sandbox has the one of its builder.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Has the program find packages of its language, each with a version specifier as its package index takes it
    /// (`pandas==2.*`, `lodash@^4`). They are installed once, in a VM of their own, from the index that this host's
    /// tools are configured for; runs that ask for the same ones begin with them. A sandbox has those of its builder.
    #[must_use]
    pub fn packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages
            .words
            .extend(packages.into_iter().map(Into::into));
        self
    }

    /// Resolves the packages again, whatever versions they came to before.
    #[must_use]
    pub fn refresh_packages(mut self) -> Self {
        self.packages.anew = true;
        self
    }

    /// Its network, made ready.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub(crate) fn prepared(&self) -> Result<Option<Prepared>, Error> {
        self.network.as_ref().map(Network::prepare).transpose()
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Ends the code after this many seconds; 0 = the most that the engine allows.
    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// Gives the guest this much memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Runs in this context of a [`Sandbox`](crate::Sandbox): an interpreter that keeps its state
    /// between runs, begun by the first one that names it.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Runs in an interpreter started for it, instead of one that was warmed up before the VM was
    /// cloned: hash seeds and addresses are then shared with no other VM. Costs the interpreter's start.
    #[must_use]
    pub fn fresh_interpreter(mut self) -> Self {
        self.fresh_interpreter = true;
        self
    }

    /// Gives the program a standard input, written to by [`Run::input`]. Without it, it is empty.
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Asks for values: that of the last expression, and what the code shows otherwise, as
    /// [`Event::Result`]. Python and JavaScript have them.
    #[must_use]
    pub fn display(mut self) -> Self {
        self.display = true;
        self
    }

    /// Runs in this directory of the guest, absolute or below the user's home.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Names this run for ever: a request with the same key, in the same sandbox, follows the run that goes
    /// on or gets the end that was recorded, and never runs the code again. 1 to 128 printable ASCII
    /// characters without spaces.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Whether it names itself for ever.
    pub(crate) fn has_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Whether it is for this context.
    pub(crate) fn is_in_context(&self, name: &str) -> bool {
        self.context.as_deref() == Some(name)
    }

    /// The memory of the VM, in MiB.
    pub(crate) fn memory(&self) -> u32 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }

    /// Refuses to be run in a VM with other memory than it asks for.
    pub(crate) fn fits(&self, memory_mib: u32) -> Result<(), Error> {
        match self.memory_mib {
            Some(asked) if asked != memory_mib => {
                let message =
                    format!("{asked} MiB of memory are asked for; this sandbox has {memory_mib}");
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ if self.network.is_some() => {
                let message =
                    "a sandbox has the network of its builder; leave it out of its requests";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ if !self.packages.words.is_empty() => {
                let message = "a sandbox has the packages of its builder; leave them out of its requests, or install them in it";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ => Ok(()),
        }
    }

    /// The exec to send, and how long it may take, when all of it is allowed.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(Exec, Duration), Error> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let asked = self.memory();
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&asked) {
            return Err(invalid(format!(
                "{asked} MiB of memory; {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} are allowed"
            )));
        }
        let mut exec = Exec::new(self.language, self.code.clone());
        exec.env_vars = self.env.iter().cloned().collect::<EnvVars>();
        exec.timeout = Some(i64::try_from(self.timeout_s).unwrap_or(i64::MAX));
        exec.context = self.context.as_deref().map(ContextName::new);
        exec.fresh = self.fresh_interpreter;
        exec.stdin = self.stdin;
        exec.display = self.display;
        exec.cwd = self.cwd.as_deref().map(GuestPath::new);
        exec.idempotency_key = self.idempotency_key.as_deref().map(IdempotencyKey::new);
        exec.check(limits).map_err(|error| invalid(error.message))?;
        let seconds = exec
            .timeout_s(limits)
            .map_err(|error| invalid(error.message))?;
        Ok((exec, Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &RunRequest) -> Result<(Exec, Duration), Error> {
        request.check(&Limits::default())
    }

    #[test]
    fn memory_at_the_limits_and_past_them() {
        let request = RunRequest::new(Language::Shell, "");
        assert!(check(&request.clone().memory_mib(96)).is_ok());
        assert!(check(&request.clone().memory_mib(1024 * 1024)).is_ok());
        for mib in [0, 95, 1024 * 1024 + 1] {
            let error = check(&request.clone().memory_mib(mib)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(&mib.to_string()), "{error}");
        }
    }

    #[test]
    fn a_timeout_of_0_is_the_most_that_is_allowed() {
        let request = RunRequest::new(Language::Shell, "").timeout_s(0);
        assert_eq!(check(&request).unwrap().1, Duration::from_secs(300));
        assert!(check(&request.timeout_s(301)).is_err());
    }

    #[test]
    fn the_protocols_limits_hold_before_a_vm_is_started() {
        assert!(check(&RunRequest::new(Language::Shell, "x".repeat(2_097_153))).is_err());
        assert!(check(&RunRequest::new(Language::Shell, "").env("LD_PRELOAD", "x")).is_err());
    }
}
