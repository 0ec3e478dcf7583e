//! Requests to run code and programs.

use std::collections::BTreeMap;

use fumehood_engine::{DownloadTarget, Language, RunRequest, SignalName, SpawnRequest};
use serde::Deserialize;
use utoipa::ToSchema;

use super::files::UploadRequest;
use super::language::language_schema;
use super::network::NetworkRequest;
use crate::api::whole_number::{optional_whole_number, whole_number};
use crate::error::ApiError;

/// The uploads of one run, and its downloads, at most.
const MAX_FILES: usize = 64;

/// The contents of the downloads of one run, in bytes, at most. As base64 they fit into the kept events.
const MAX_DOWNLOAD_BYTES: u64 = 8 * 1024 * 1024;

/// The default timeout of a run, in seconds.
const DEFAULT_TIMEOUT_S: u64 = 30;

fn default_timeout_s() -> u64 {
    DEFAULT_TIMEOUT_S
}

/// The standard input of a program.
#[derive(Debug, Clone, Deserialize, ToSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Stdin {
    /// `true`: the input stays open and is written while the program runs. `false`: there is no input.
    Open(bool),
    /// The whole input.
    Text(String),
}

impl Default for Stdin {
    fn default() -> Self {
        Self::Open(false)
    }
}

impl Stdin {
    fn is_enabled(&self) -> bool {
        *self != Self::Open(false)
    }
}

/// Declares a request to run code: the fields that all such requests share, and those of this one.
///
/// The shared fields are repeated in each type rather than flattened, since `serde(flatten)` loses the name of the field
/// that an error is about.
macro_rules! run_code_request {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The language of the code.
            #[schema(schema_with = language_schema)]
            pub language: Language,
            /// The code, at most 2 MiB.
            #[schema(max_length = 2_097_152)]
            pub code: String,
            /// The arguments of the program, without its name; at most 128 KiB together.
            #[serde(default)]
            #[schema(max_items = 1024)]
            pub args: Vec<String>,
            /// Environment variables.
            #[serde(default)]
            pub env: BTreeMap<String, String>,
            /// The working directory: an absolute path, or one relative to the home directory.
            #[serde(default)]
            pub cwd: Option<String>,
            /// The timeout in seconds; 0 = the longest that is allowed.
            #[serde(default = "default_timeout_s", deserialize_with = "whole_number")]
            #[schema(maximum = 300)]
            pub timeout_s: u64,
            /// The standard input.
            #[serde(default)]
            pub stdin: Stdin,
            /// Whether to return values: that of the last expression, and displayed ones.
            #[serde(default)]
            pub display: bool,
            /// Whether to start a new interpreter for this run.
            #[serde(default)]
            pub fresh_interpreter: bool,
            /// Whether the run continues when no client is connected to it.
            #[serde(default)]
            pub detach: bool,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// Creates a request with default values for everything but the code.
            #[must_use]
            pub fn new(language: Language, code: String) -> Self {
                Self {
                    language,
                    code,
                    args: Vec::new(),
                    env: BTreeMap::new(),
                    cwd: None,
                    timeout_s: DEFAULT_TIMEOUT_S,
                    stdin: Stdin::default(),
                    display: false,
                    fresh_interpreter: false,
                    detach: false,
                    $($field: Default::default(),)*
                }
            }

            fn shared_fields(&self) -> RunRequest {
                let mut request =
                    RunRequest::new(self.language, &*self.code).timeout_s(self.timeout_s);
                request = request.args(self.args.iter().cloned());

                for (name, value) in &self.env {
                    request = request.env(name, value);
                }

                if let Some(cwd) = &self.cwd {
                    request = request.cwd(cwd);
                }

                if self.stdin.is_enabled() {
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
        }
    };
}

run_code_request! {
    /// Code to run in a fresh VM.
    pub struct OneShotRunRequest {
        /// The memory of the VM in MiB; 512 by default.
        #[serde(default, deserialize_with = "optional_whole_number")]
        #[schema(minimum = 96, maximum = 1_048_576)]
        pub memory_mib: Option<u32>,
        /// Packages to install first, such as `six`, `six==1.16.0` or `lodash@^4`; without a version, the newest.
        #[serde(default)]
        #[schema(max_items = 50)]
        pub packages: Vec<String>,
        /// Whether to resolve the packages again instead of using a cached result.
        #[serde(default)]
        pub refresh_packages: bool,
        /// The network of the VM; none by default.
        #[serde(default)]
        pub network: Option<NetworkRequest>,
        /// Files to write before the code runs.
        #[serde(default)]
        #[schema(max_items = 64)]
        pub uploads: Vec<UploadRequest>,
        /// Paths of files to return after the code ended, at most 8 MiB together. Their contents are in `files`; what
        /// became of each is in `downloads`.
        #[serde(default)]
        #[schema(max_items = 64)]
        pub downloads: Vec<String>,
    }
}

run_code_request! {
    /// Code to run in a sandbox.
    pub struct SandboxRunRequest {
        /// The context (a named interpreter that keeps its state) to run in; a new interpreter by default.
        #[serde(default)]
        pub context: Option<String>,
    }
}

impl OneShotRunRequest {
    /// Converts the request into the engine's.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) if the network is invalid.
    pub fn to_run_request(&self) -> Result<RunRequest, ApiError> {
        let mut request = self.shared_fields().packages(self.packages.iter().cloned());
        if let Some(mib) = self.memory_mib {
            request = request.memory_mib(mib);
        }

        if self.refresh_packages {
            request = request.refresh_packages();
        }

        if let Some(network) = &self.network {
            request = request.network(network.to_network()?);
        }

        if self.uploads.len() > MAX_FILES || self.downloads.len() > MAX_FILES {
            let message =
                format!("a run may have at most {MAX_FILES} uploads and {MAX_FILES} downloads");
            return Err(ApiError::invalid(message));
        }

        for upload in &self.uploads {
            request = request.upload(upload.content()?, upload.path.as_str());
        }

        request = request.memory_download_limit(MAX_DOWNLOAD_BYTES);
        for path in &self.downloads {
            request = request.download(path.as_str(), DownloadTarget::Memory);
        }

        Ok(request)
    }
}

impl SandboxRunRequest {
    /// Converts the request into the engine's.
    #[must_use]
    pub fn to_run_request(&self) -> RunRequest {
        let request = self.shared_fields();
        match &self.context {
            Some(context) => request.context(context),
            None => request,
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// The number of rows.
    #[serde(deserialize_with = "whole_number")]
    #[schema(minimum = 1, maximum = 65535)]
    pub rows: u16,
    /// The number of columns.
    #[serde(deserialize_with = "whole_number")]
    #[schema(minimum = 1, maximum = 65535)]
    pub cols: u16,
}

/// A program to start in a sandbox.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessRequest {
    /// The program and its arguments.
    #[schema(min_items = 1)]
    pub argv: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The working directory: an absolute path, or one relative to the home directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The timeout in seconds; 0 = none.
    #[serde(default, deserialize_with = "whole_number")]
    #[schema(maximum = 300)]
    pub timeout_s: u64,
    /// The standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// The size of the program's terminal; without it, the program has none.
    #[serde(default)]
    pub pty: Option<PtySize>,
    /// A label for people, shown in lists of processes.
    #[serde(default)]
    #[schema(max_length = 128)]
    pub tag: Option<String>,
    /// Whether the program continues when no client is connected to it.
    #[serde(default)]
    pub detach: bool,
}

impl ProcessRequest {
    /// Converts the request into the engine's.
    #[must_use]
    pub fn to_spawn_request(&self) -> SpawnRequest {
        let mut request = SpawnRequest::new(self.argv.iter().cloned()).timeout_s(self.timeout_s);
        for (name, value) in &self.env {
            request = request.env(name, value);
        }

        if let Some(cwd) = &self.cwd {
            request = request.cwd(cwd);
        }

        if self.stdin.is_enabled() {
            request = request.stdin();
        }

        if let Some(PtySize { rows, cols }) = self.pty {
            request = request.pty(rows, cols);
        }

        match &self.tag {
            Some(tag) => request.tag(tag),
            None => request,
        }
    }
}

/// A signal to send to a program.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalRequest {
    /// The signal, by name or number.
    pub signal: Signal,
}

/// A signal, by name or number.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Signal {
    /// A number from 1 to 31.
    Number(i32),
    /// A name as in signal(7), such as `SIGTERM`.
    Name(String),
}

impl Signal {
    /// Returns the number of the signal.
    ///
    /// # Errors
    /// [`ApiErrorKind::Invalid`](crate::ApiErrorKind::Invalid) if there is no such signal.
    pub fn number(&self) -> Result<i32, ApiError> {
        let signal = match self {
            Self::Number(number) => SignalName::Number(*number),
            Self::Name(name) => SignalName::Name(name.clone()),
        };
        let number = signal.number();
        number.map_err(|error| ApiError::invalid(error.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn each_run_request_has_its_own_fields() {
        let base = r#""language":"shell","code":"""#;
        let one_shot = |field: &str| parse::<OneShotRunRequest>(&format!("{{{base},{field}}}"));
        let in_sandbox = |field: &str| parse::<SandboxRunRequest>(&format!("{{{base},{field}}}"));

        assert!(in_sandbox(r#""context":"main""#).is_ok());
        assert!(
            one_shot(r#""context":"main""#)
                .unwrap_err()
                .contains("context")
        );

        for field in [
            r#""memory_mib":128"#,
            r#""packages":["six==1.16.0"]"#,
            r#""refresh_packages":true"#,
            r#""network":{}"#,
        ] {
            assert!(one_shot(field).is_ok(), "{field}");
            let name = field.split('"').nth(1).unwrap();
            assert!(in_sandbox(field).unwrap_err().contains(name), "{field}");
        }
    }

    #[test]
    fn files_of_one_shot_runs_are_checked() {
        let run = |fields: &str| {
            let json = format!(r#"{{"language":"shell","code":"",{fields}}}"#);
            let request: OneShotRunRequest = parse(&json).unwrap();
            request.to_run_request().map_err(|error| error.message)
        };

        for valid in [
            r#""uploads":[{"path":"a","text":"x"},{"path":"/tmp/b","base64":"AP8="}]"#,
            r#""uploads":[{"path":"empty","text":""}],"downloads":["a","/tmp/b"]"#,
        ] {
            assert!(run(valid).is_ok(), "{valid}");
        }

        for (invalid, part) in [
            (r#""uploads":[{"path":"a"}]"#, "either"),
            (
                r#""uploads":[{"path":"a","text":"x","base64":"eA=="}]"#,
                "either",
            ),
            (r#""uploads":[{"path":"a","base64":"?"}]"#, "base64"),
            (r#""uploads":[{"path":"","text":"x"}]"#, "path"),
            (r#""uploads":[{"path":"a/","text":"x"}]"#, "path"),
        ] {
            assert!(run(invalid).unwrap_err().contains(part), "{invalid}");
        }

        let many = |count| format!(r#""downloads":[{}]"#, vec![r#""a""#; count].join(","));
        assert!(run(&many(MAX_FILES)).is_ok());
        assert!(run(&many(MAX_FILES + 1)).unwrap_err().contains("64"));
    }

    #[test]
    fn languages_have_aliases() {
        let language = |word: &str| {
            let json = format!(r#"{{"language":"{word}","code":""}}"#);
            let request: Result<OneShotRunRequest, _> = parse(&json);
            request.map(|request| request.language).ok()
        };
        assert_eq!(language("raw"), Some(Language::Shell));
        for (name, expected) in Language::NAMES {
            assert_eq!(language(name), Some(expected), "{name}");
        }
        assert_eq!(language("cobol"), None);
    }
}
