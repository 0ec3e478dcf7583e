use std::time::Duration;

use fumehood_protocol::{ContextName, EnvVars, Exec, GuestPath, IdempotencyKey, Language, Limits};

use super::transfer::{DownloadTarget, Transfers, UploadSource};
use crate::config::DEFAULT_MEMORY_MIB;
use crate::error::{Error, ErrorKind};
use crate::network::{Network, PreparedNetwork};
use crate::packages::PackageRequest;

/// Default timeout, in seconds.
const DEFAULT_TIMEOUT_S: u64 = 30;

/// Minimum memory of a guest, in MiB: kernel, agent and one interpreter fit.
const MIN_MEMORY_MIB: u32 = 96;

/// Maximum memory of a guest, in MiB: 1 TiB. The capacity of this host is checked when the VM is acquired.
const MAX_MEMORY_MIB: u32 = 1024 * 1024;

/// Code to run in a fresh VM ([`Engine::run`](crate::Engine::run)) or in a sandbox
/// ([`Sandbox::run`](crate::Sandbox::run)).
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub(crate) language: Language,
    pub(crate) code: String,
    args: Vec<String>,
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
    pub(crate) packages: PackageRequest,
    pub(crate) transfers: Transfers,
}

impl RunRequest {
    /// Default memory of a guest, in MiB.
    pub const DEFAULT_MEMORY_MIB: u32 = DEFAULT_MEMORY_MIB;

    /// Creates a request to run `code` with 512 MiB of memory and a timeout of 30 s.
    #[must_use]
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            language,
            code: code.into(),
            args: Vec::new(),
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
            packages: PackageRequest::default(),
            transfers: Transfers::default(),
        }
    }

    /// Gives the VM a network. Only for one-shot runs: a sandbox has the network of its builder.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Makes packages of the program's language available, each with a version specifier of its package index
    /// (`pandas==2.*`, `lodash@^4`). They are installed once in a separate VM, from the index that this host's tools
    /// are configured for, and cached for later runs. Only for one-shot runs: a sandbox has the packages of its
    /// builder.
    ///
    /// A package without a specifier has its newest version, which is resolved again after 24 hours. The versions are in
    /// [`Outcome::packages`](crate::Outcome::packages).
    #[must_use]
    pub fn packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages
            .specs
            .extend(packages.into_iter().map(Into::into));
        self
    }

    /// Resolves the packages again, even if their versions are cached.
    #[must_use]
    pub fn refresh_packages(mut self) -> Self {
        self.packages.force = true;
        self
    }

    /// Copies a file or directory into the guest before the program starts. Only for one-shot runs.
    ///
    /// `guest_path` is absolute or relative to the user's home. Missing directories on the way are created. If it ends
    /// with `/` or is a directory in the guest, a file is put into it under the name of its source; if it is empty,
    /// the source's name is used. If an upload fails, the code is not run and the run fails.
    #[must_use]
    pub fn upload(
        mut self,
        source: impl Into<UploadSource>,
        guest_path: impl Into<String>,
    ) -> Self {
        self.transfers
            .uploads
            .push((source.into(), guest_path.into()));
        self
    }

    /// Copies a file or directory out of the guest after the program ended, however it ended. Only for one-shot runs.
    ///
    /// The result is in [`Outcome::downloads`](crate::Outcome::downloads). A download that fails does not change the
    /// rest of the outcome.
    #[must_use]
    pub fn download(
        mut self,
        guest_path: impl Into<String>,
        target: impl Into<DownloadTarget>,
    ) -> Self {
        self.transfers
            .downloads
            .push((guest_path.into(), target.into()));
        self
    }

    /// Sets how many bytes the downloads into memory may hold together; 256 MiB by default. A file that does not fit
    /// is a failed download.
    #[must_use]
    pub fn memory_download_limit(mut self, bytes: u64) -> Self {
        self.transfers.memory_bytes = bytes;
        self
    }

    /// Prepares the network of the request.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`], as [`Network::prepare`].
    pub(crate) fn prepared(&self) -> Result<Option<PreparedNetwork>, Error> {
        self.network.as_ref().map(Network::prepare).transpose()
    }

    /// Adds arguments of the program: `sys.argv[1:]`, `process.argv.slice(2)` or `"$@"`. At most 1,024 of them and
    /// 128 KiB in total, each with its terminating NUL. In a context they replace those of earlier runs; without any,
    /// those stay.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the timeout, in seconds; 0 = the maximum of the engine.
    #[must_use]
    pub fn timeout_s(mut self, seconds: u64) -> Self {
        self.timeout_s = seconds;
        self
    }

    /// Sets the memory of the guest, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// Runs in this context of a [`Sandbox`](crate::Sandbox): an interpreter that keeps its state between runs. The
    /// first run that names a context starts it.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    /// Runs in a newly started interpreter instead of one that was warmed up before the VM was cloned: hash seeds and
    /// addresses are then shared with no other VM. This costs the start of the interpreter.
    #[must_use]
    pub fn fresh_interpreter(mut self) -> Self {
        self.fresh_interpreter = true;
        self
    }

    /// Gives the program a standard input, written by [`Run::input`](crate::Run::input). Without this, it is empty.
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Requests values: that of the last expression and those that the code displays, as
    /// [`Event::Result`](crate::Event::Result). Supported for Python and JavaScript.
    #[must_use]
    pub fn display(mut self) -> Self {
        self.display = true;
        self
    }

    /// Sets the working directory in the guest, absolute or relative to the user's home.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// Makes the run idempotent: repeating it with the same key, in the same sandbox, attaches to the existing run or
    /// returns its recorded outcome, and never runs the code again. 1 to 128 printable ASCII characters without
    /// spaces.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Returns whether the request has an idempotency key.
    pub(crate) fn has_key(&self) -> bool {
        self.idempotency_key.is_some()
    }

    /// Returns whether the request is for this context.
    pub(crate) fn is_in_context(&self, name: &str) -> bool {
        self.context.as_deref() == Some(name)
    }

    /// Returns the memory of the VM, in MiB.
    pub(crate) fn memory(&self) -> u32 {
        self.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB)
    }

    /// Rejects a request that a sandbox with this memory cannot fulfil.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`], with the option that belongs to the sandbox's builder.
    pub(crate) fn fits_sandbox(&self, memory_mib: u32) -> Result<(), Error> {
        let message = match self.memory_mib {
            Some(requested) if requested != memory_mib => {
                format!("{requested} MiB of memory requested; this sandbox has {memory_mib} MiB")
            }
            _ if self.network.is_some() => {
                "a sandbox has the network of its builder; remove it from the request".into()
            }
            _ if !self.packages.specs.is_empty() => {
                "a sandbox has the packages of its builder; remove them from the request, or install them in the sandbox"
                    .into()
            }
            _ if !self.transfers.is_empty() => {
                "uploads and downloads are only for one-shot runs; use the files of the sandbox".into()
            }
            _ => return Ok(()),
        };

        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// Validates the request; returns the exec to send, and its timeout.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Invalid`] with the value and its limit.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(Exec, Duration), Error> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);

        let memory_mib = self.memory();
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
            return Err(invalid(format!(
                "{memory_mib} MiB of memory requested; {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB are allowed"
            )));
        }

        check_timeout(self.timeout_s, limits)?;
        self.transfers.check(limits)?;

        // The protocol validates its own fields.
        let mut exec = Exec::new(self.language, self.code.clone());
        exec.args = self.args.clone();
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

/// Checks a timeout in seconds.
///
/// # Errors
/// Returns [`ErrorKind::Invalid`] with the maximum and how to raise it.
pub(super) fn check_timeout(seconds: u64, limits: &Limits) -> Result<(), Error> {
    let max = limits.timeout_s;
    if seconds <= max {
        return Ok(());
    }

    let message = format!(
        "the timeout is {seconds} s; at most {max} s are allowed; the option --max-timeout of run, serve and mcp sets \
         the maximum"
    );
    Err(Error::new(ErrorKind::Invalid, message))
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
    fn a_timeout_of_0_is_the_maximum() {
        let request = RunRequest::new(Language::Shell, "").timeout_s(0);
        assert_eq!(check(&request).unwrap().1, Duration::from_secs(300));
        let error = check(&request.timeout_s(301)).unwrap_err();
        assert!(error.to_string().contains("--max-timeout"), "{error}");
    }

    #[test]
    fn protocol_limits_are_checked_before_a_vm_starts() {
        assert!(check(&RunRequest::new(Language::Shell, "x".repeat(2_097_153))).is_err());
        assert!(check(&RunRequest::new(Language::Shell, "").env("LD_PRELOAD", "x")).is_err());

        let with = |args: Vec<String>| check(&RunRequest::new(Language::Shell, "").args(args));
        assert_eq!(with(vec!["a b".into()]).unwrap().0.args, ["a b"]);
        assert!(with(vec![String::new(); 1024]).is_ok());
        for wrong in [vec![String::new(); 1025], vec!["\0".into()]] {
            let error = with(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("args"), "{error}");
        }
    }
}
