//! What callers send, as JSON. Limits that the engine knows are the engine's to check.

use std::collections::BTreeMap;

use fumehood_engine::policy::{Document, SecretName};
use fumehood_engine::{
    Language, Network, PortMapping, RunRequest, SecretValue, SignalName, SpawnRequest,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::whole_number::{whole, whole_or_none};
use crate::error::ApiError;

/// Secrets and exposed ports of one request.
const MOST_OF_A_KIND: usize = 64;

/// A language that code is in.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CodeLanguage {
    /// Python.
    Python,
    /// JavaScript or TypeScript.
    Javascript,
    /// The shell.
    Shell,
}

impl From<CodeLanguage> for Language {
    fn from(language: CodeLanguage) -> Self {
        match language {
            CodeLanguage::Python => Self::Python,
            CodeLanguage::Javascript => Self::Javascript,
            CodeLanguage::Shell => Self::Shell,
        }
    }
}

/// A program's standard input.
#[derive(Debug, Clone, Deserialize, ToSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Stdin {
    /// Whether it has one, which is written to while it runs.
    Open(bool),
    /// All of it.
    Text(String),
}

impl Default for Stdin {
    fn default() -> Self {
        Self::Open(false)
    }
}

impl Stdin {
    fn is_there(&self) -> bool {
        *self != Self::Open(false)
    }
}

fn timeout() -> u64 {
    30
}

/// Code to be run, wherever.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunBody {
    /// The language of the code.
    pub language: CodeLanguage,
    /// The code, at most 2 MiB.
    #[schema(max_length = 2_097_152)]
    pub code: String,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The directory to run in: absolute, or below the user's home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Seconds until it is ended; 0 = the most that is allowed.
    #[serde(default = "timeout", deserialize_with = "whole")]
    #[schema(maximum = 300)]
    pub timeout_s: u64,
    /// Its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// Whether values are wanted: that of the last expression, and what is shown.
    #[serde(default)]
    pub display: bool,
    /// Whether an interpreter is started for it alone.
    #[serde(default)]
    pub fresh_interpreter: bool,
    /// Whether it goes on when nobody follows it.
    #[serde(default)]
    pub detach: bool,
    /// A sandbox's interpreter that keeps its state; for runs in a sandbox alone.
    #[serde(default)]
    pub context: Option<String>,
    /// Memory of the VM; for runs in a VM of their own alone.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 96, maximum = 1_048_576)]
    pub memory_mib: Option<u32>,
    /// Packages with versions; for runs in a VM of their own alone.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub packages: Vec<String>,
    /// Whether packages are resolved again.
    #[serde(default)]
    pub refresh_packages: bool,
    /// Its network; for runs in a VM of their own alone.
    #[serde(default)]
    pub network: Option<NetworkBody>,
}

impl RunBody {
    /// Code to be run as if nothing else had been said.
    #[must_use]
    pub fn new(language: CodeLanguage, code: String) -> Self {
        Self {
            language,
            code,
            env: BTreeMap::new(),
            cwd: None,
            timeout_s: timeout(),
            stdin: Stdin::default(),
            display: false,
            fresh_interpreter: false,
            detach: false,
            context: None,
            memory_mib: None,
            packages: Vec::new(),
            refresh_packages: false,
            network: None,
        }
    }

    fn request(&self) -> RunRequest {
        let mut request =
            RunRequest::new(self.language.into(), &*self.code).timeout_s(self.timeout_s);
        for (name, value) in &self.env {
            request = request.env(name, value);
        }
        if let Some(cwd) = &self.cwd {
            request = request.cwd(cwd);
        }
        if self.stdin.is_there() {
            request = request.stdin();
        }
        if self.display {
            request = request.display();
        }
        if self.fresh_interpreter {
            request = request.fresh_interpreter();
        }
        request
    }

    /// The request for a VM of its own.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid).
    pub fn alone(&self) -> Result<RunRequest, ApiError> {
        if self.context.is_some() {
            let message = "`context`: a run in a VM of its own has none; run it in a sandbox";
            return Err(ApiError::invalid(message));
        }
        let mut request = self.request().packages(self.packages.iter().cloned());
        if let Some(mib) = self.memory_mib {
            request = request.memory_mib(mib);
        }
        if self.refresh_packages {
            request = request.refresh_packages();
        }
        if let Some(network) = &self.network {
            request = request.network(network.network()?);
        }
        Ok(request)
    }

    /// The request for a sandbox.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid).
    pub fn within(&self) -> Result<RunRequest, ApiError> {
        let given = [
            ("memory_mib", self.memory_mib.is_some()),
            ("packages", !self.packages.is_empty()),
            ("refresh_packages", self.refresh_packages),
            ("network", self.network.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            let message = format!("`{name}`: a sandbox has its own; leave it out of its runs");
            return Err(ApiError::invalid(message));
        }
        let request = self.request();
        Ok(match &self.context {
            Some(context) => request.context(context),
            None => request,
        })
    }
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PtyBody {
    /// Lines.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 65535)]
    pub rows: u16,
    /// Columns.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 65535)]
    pub cols: u16,
}

/// A program to be started in a sandbox.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessBody {
    /// The program and its arguments.
    #[schema(min_items = 1)]
    pub argv: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The directory to run in.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Seconds until it is ended; 0 = never.
    #[serde(default, deserialize_with = "whole")]
    #[schema(maximum = 300)]
    pub timeout_s: u64,
    /// Its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// A terminal for it.
    #[serde(default)]
    pub pty: Option<PtyBody>,
    /// A word for people, shown in lists.
    #[serde(default)]
    #[schema(max_length = 128)]
    pub tag: Option<String>,
    /// Whether it goes on when nobody follows it.
    #[serde(default)]
    pub detach: bool,
}

impl ProcessBody {
    /// The request for a sandbox.
    #[must_use]
    pub fn request(&self) -> SpawnRequest {
        let mut request = SpawnRequest::new(self.argv.iter().cloned()).timeout_s(self.timeout_s);
        for (name, value) in &self.env {
            request = request.env(name, value);
        }
        if let Some(cwd) = &self.cwd {
            request = request.cwd(cwd);
        }
        if self.stdin.is_there() {
            request = request.stdin();
        }
        if let Some(PtyBody { rows, cols }) = self.pty {
            request = request.pty(rows, cols);
        }
        match &self.tag {
            Some(tag) => request.tag(tag),
            None => request,
        }
    }
}

/// A VM's network.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkBody {
    /// What it may reach; nothing, unless something is allowed.
    #[schema(value_type = Object)]
    #[serde(default)]
    pub policy: Document,
    /// Values of the policy's secrets. They are never stored, logged or given back.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Ports of the guest that this host's loopback interface leads to: `8080`, or `0:3000`.
    #[schema(max_items = 64)]
    #[serde(default)]
    pub expose: Vec<String>,
    /// It is the operator's own, whoever asks for it.
    #[serde(skip)]
    #[schema(ignore)]
    pub(crate) is_operators: bool,
}

impl std::fmt::Debug for NetworkBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.secrets.keys().collect();
        let mut shown = f.debug_struct("NetworkBody");
        shown.field("secrets", &names).field("expose", &self.expose);
        shown.finish_non_exhaustive()
    }
}

impl NetworkBody {
    pub(crate) fn network(&self) -> Result<Network, ApiError> {
        if self.secrets.len() > MOST_OF_A_KIND || self.expose.len() > MOST_OF_A_KIND {
            let message = format!(
                "`network`: at most {MOST_OF_A_KIND} secrets and {MOST_OF_A_KIND} exposed ports are allowed"
            );
            return Err(ApiError::invalid(message));
        }
        let wrong = |at: &str, error: &dyn std::fmt::Display| {
            ApiError::invalid(format!("`network.{at}`: {error}"))
        };
        let policy = self.policy.clone().policy("request");
        let mut network = Network::new(policy.map_err(|e| wrong("policy", &e))?);
        for (name, value) in &self.secrets {
            let at = "secrets";
            let name: SecretName = name.parse().map_err(|e| wrong(at, &e))?;
            let value = SecretValue::new(value.clone()).map_err(|e| wrong(at, &e))?;
            network = network.secret(name, value);
        }
        for word in &self.expose {
            let expose: PortMapping = word.parse().map_err(|e| wrong("expose", &e))?;
            network = network.expose(expose);
        }
        Ok(network)
    }
}

/// A sandbox to be started. All is optional.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxBody {
    /// The language whose interpreter is warm in it.
    pub language: Option<CodeLanguage>,
    /// Its memory: 512 unless given.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 96, maximum = 1_048_576)]
    pub memory_mib: Option<u32>,
    /// Seconds without anything asked of it after which it ends: 300 unless given.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// Seconds after which it ends: 86,400 unless given.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
    /// Its network.
    pub network: Option<NetworkBody>,
    /// Packages of its language, with versions.
    #[schema(max_items = 50)]
    #[serde(default)]
    pub packages: Vec<String>,
    /// Whether packages are resolved again.
    #[serde(default)]
    pub refresh_packages: bool,
    /// A saved state that it begins from; nothing but times and a name goes with it.
    pub checkpoint: Option<String>,
    /// A name for people.
    #[schema(max_length = 128)]
    pub name: Option<String>,
}

/// Other times for a sandbox, from now on.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimesBody {
    /// Seconds without anything asked of it after which it ends.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// Seconds after its beginning at which it ends.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
}

/// How many sandboxes are to go on from the state of one.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkBody {
    /// How many.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(default = "one", deserialize_with = "whole")]
    pub count: usize,
}

fn one() -> usize {
    1
}

/// A language that has packages.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PackageLanguage {
    /// From the index of pip and uv.
    Python,
    /// From the registry of npm and bun.
    Javascript,
}

impl From<PackageLanguage> for Language {
    fn from(language: PackageLanguage) -> Self {
        match language {
            PackageLanguage::Python => Self::Python,
            PackageLanguage::Javascript => Self::Javascript,
        }
    }
}

/// Packages to be installed in a sandbox.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackagesBody {
    /// Python or JavaScript.
    pub language: PackageLanguage,
    /// With versions: `six==1.16.0`, `lodash@^4`.
    #[schema(min_items = 1, max_items = 50)]
    pub packages: Vec<String>,
}

/// A port of a guest to be reached from this host.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortBody {
    /// The guest's port.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 65535)]
    pub guest: u16,
    /// This host's; 0 = any that is free.
    #[serde(default, deserialize_with = "whole")]
    #[schema(maximum = 65535)]
    pub host: u16,
}

/// A signal for a program.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalBody {
    /// By its name or its number.
    pub signal: Signal,
}

/// A signal by its name or number.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Signal {
    /// 1 to 31.
    Number(i32),
    /// As in signal(7).
    Name(String),
}

impl Signal {
    /// Its number.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): there is none of that name.
    pub fn number(&self) -> Result<i32, ApiError> {
        let signal = match self {
            Self::Number(number) => SignalName::Number(*number),
            Self::Name(name) => SignalName::Name(name.clone()),
        };
        signal
            .number()
            .map_err(|error| ApiError::invalid(error.message))
    }
}

/// A directory to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectoryBody {
    /// Its path.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub path: String,
}

/// A file to be moved.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveBody {
    /// From where.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub from: String,
    /// To where.
    #[schema(min_length = 1, max_length = 4095, pattern = "^[^\\u0000]+$")]
    pub to: String,
    /// Whether a file that is there is replaced.
    #[serde(default)]
    pub replace: bool,
}
