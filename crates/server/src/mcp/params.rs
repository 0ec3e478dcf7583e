//! What a model asks for. The words of these types are what it reads: each says what the field does, and its limits.

use schemars::JsonSchema;
use serde::Deserialize;

/// A language that code is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Language {
    /// Python 3.
    Python,
    /// JavaScript or TypeScript, run by bun.
    Javascript,
    /// bash.
    Shell,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunCode {
    /// The language of the code.
    pub(super) language: Language,
    /// The code. The value of its last expression is returned too (Python, JavaScript).
    pub(super) code: String,
    /// A session from `start_session`: variables, files and processes of earlier calls are there. Left out, the code
    /// runs in a fresh machine that is gone afterwards.
    #[serde(default)]
    pub(super) session: Option<String>,
    /// Text for the program's standard input.
    #[serde(default)]
    pub(super) stdin: Option<String>,
    /// Seconds after which the code is ended: 1 to 300; 30 unless given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 300))]
    pub(super) timeout_s: Option<u64>,
    /// Packages to have, with versions, such as `pandas==2.*` or `zod@^4`; they are installed before the code runs. Not
    /// with a session: give them to `start_session`, or use `install_packages`.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Whether the code may use the network, as far as the operator's policy allows. Not with a session.
    #[serde(default)]
    pub(super) network: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartSession {
    /// The language that is used first; all are there.
    #[serde(default)]
    pub(super) language: Option<Language>,
    /// Packages of that language to have, with versions.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Whether its code may use the network, as far as the operator's policy allows.
    #[serde(default)]
    pub(super) network: bool,
    /// Memory in MiB: 512 unless given. Files count too.
    #[serde(default)]
    #[schemars(range(min = 96, max = 1_048_576))]
    pub(super) memory_mib: Option<u32>,
    /// Seconds without any call after which the session ends: 300 unless given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) idle_timeout_s: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    /// The session, as `start_session` returned it.
    pub(super) session: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    /// The session.
    pub(super) session: String,
    /// The file: absolute, or below the home directory, where code runs. Missing directories are made.
    pub(super) path: String,
    /// Its content, as text. Either this or `base64`.
    #[serde(default)]
    pub(super) text: Option<String>,
    /// Its content, as base64, for what is no text.
    #[serde(default)]
    pub(super) base64: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFile {
    /// The session.
    pub(super) session: String,
    /// The file.
    pub(super) path: String,
    /// The first byte to read: 0 unless given.
    #[serde(default)]
    pub(super) offset: u64,
    /// The most bytes to read: at most 1,048,576; 65,536 unless given, and all of an image.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) bytes: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFiles {
    /// The session.
    pub(super) session: String,
    /// The directory; the home directory unless given.
    #[serde(default)]
    pub(super) path: Option<String>,
    /// How deep: 1 (the directory alone) unless given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16))]
    pub(super) depth: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallPackages {
    /// The session.
    pub(super) session: String,
    /// `python` or `javascript`.
    pub(super) language: Language,
    /// Packages with versions, such as `six==1.16.0` or `lodash@^4`.
    pub(super) packages: Vec<String>,
}
