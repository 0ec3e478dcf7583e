//! The parameters of the tools. Models read the doc comments of the fields: each explains its field and its limits.

use fumehood_engine::Language;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::api::requests::{UploadRequest, language_names, package_language_names};

fn language_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": language_names().collect::<Vec<_>>() })
}

fn package_language_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": package_language_names().collect::<Vec<_>>() })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunCode {
    /// The language: `python` (Python 3), `javascript` or `typescript` (run by bun), or `shell` (bash).
    #[schemars(schema_with = "language_schema")]
    pub(super) language: Language,
    /// The code. In Python and JavaScript, the value of the last expression is returned too.
    pub(super) code: String,
    /// Arguments for the program: `sys.argv[1:]`, `process.argv.slice(2)` or `"$@"`.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// A session from `start_session`, with the variables, files and processes of earlier calls. Without it, the code
    /// runs in a fresh machine that is deleted afterwards.
    #[serde(default)]
    pub(super) session: Option<String>,
    /// Text for standard input.
    #[serde(default)]
    pub(super) stdin: Option<String>,
    /// Timeout in seconds. Default: 30. The server adds its maximum.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) timeout_s: Option<u64>,
    /// Packages to install before the code runs, such as `pandas`, `pandas==2.*` or `zod@^4`. Not allowed with a
    /// session: pass them to `start_session`, or call `install_packages`.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Whether the code may use the network, within the operator's policy. Not allowed with a session.
    #[serde(default)]
    pub(super) network: bool,
    /// Files to write before the code runs, at most 64. Not allowed with a session: use `write_file`.
    #[serde(default)]
    pub(super) uploads: Vec<Upload>,
    /// Paths of files to return after the code ended, at most 64 and 8 MiB together. Not allowed with a session: use
    /// `read_file`.
    #[serde(default)]
    pub(super) downloads: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    /// The path: absolute, or relative to the home directory, where code runs. Missing directories are created.
    path: String,
    /// The content as text. Pass either this or `base64`.
    #[serde(default)]
    text: Option<String>,
    /// The content as base64, for binary files.
    #[serde(default)]
    base64: Option<String>,
}

impl From<Upload> for UploadRequest {
    fn from(upload: Upload) -> Self {
        let Upload { path, text, base64 } = upload;
        Self { path, text, base64 }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartSession {
    /// The language that is used first: `python`, `javascript` or `shell`. All three are available. Default: `python`.
    #[serde(default)]
    #[schemars(schema_with = "language_schema")]
    pub(super) language: Option<Language>,
    /// Packages of that language to install, with or without versions.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Whether code in the session may use the network, within the operator's policy.
    #[serde(default)]
    pub(super) network: bool,
    /// Memory in MiB, including files. Default: 512.
    #[serde(default)]
    #[schemars(range(min = 96, max = 1_048_576))]
    pub(super) memory_mib: Option<u32>,
    /// The session ends after this many seconds without a call. Default: 300.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400))]
    pub(super) idle_timeout_s: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndSession {
    /// The session from `start_session`.
    pub(super) session: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListSessions {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    /// The session.
    pub(super) session: String,
    /// The path: absolute, or relative to the home directory, where code runs. Missing directories are created.
    pub(super) path: String,
    /// The content as text. Pass either this or `base64`.
    #[serde(default)]
    pub(super) text: Option<String>,
    /// The content as base64, for binary files.
    #[serde(default)]
    pub(super) base64: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFile {
    /// The session.
    pub(super) session: String,
    /// The path.
    pub(super) path: String,
    /// The offset of the first byte. Default: 0.
    #[serde(default)]
    pub(super) offset: u64,
    /// The maximum number of bytes, 1 to 1,048,576. Default: 65,536, or all of an image.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub(super) bytes: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFiles {
    /// The session.
    pub(super) session: String,
    /// The directory. Default: the home directory.
    #[serde(default)]
    pub(super) path: Option<String>,
    /// How many levels of directories to list. Default: 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16))]
    pub(super) depth: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallPackages {
    /// The session.
    pub(super) session: String,
    /// The language of the packages: `python` or `javascript`.
    #[schemars(schema_with = "package_language_schema")]
    pub(super) language: Language,
    /// The packages, with or without versions, such as `six==1.16.0` or `lodash@^4`.
    pub(super) packages: Vec<String>,
}
