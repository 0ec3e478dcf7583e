//! Requests about sandboxes.

use fumehood_engine::Language;
use serde::Deserialize;
use utoipa::ToSchema;

use super::language::{optional_language_schema, package_language_schema};
use super::network::NetworkRequest;
use crate::api::object_name::ObjectName;
use crate::api::whole_number::{optional_whole_number, whole_number};

/// A sandbox to start. All fields are optional.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRequest {
    /// The language whose interpreter is started in advance.
    #[schema(schema_with = optional_language_schema)]
    pub language: Option<Language>,
    /// The memory in MiB; 512 by default.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 96, maximum = 1_048_576)]
    pub memory_mib: Option<u32>,
    /// The sandbox ends after this many seconds without a request; 300 by default.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// The sandbox ends this many seconds after its start; 86,400 by default.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
    /// The network; none by default.
    pub network: Option<NetworkRequest>,
    /// Packages of `language` to install first, with or without versions.
    #[schema(max_items = 50)]
    #[serde(default)]
    pub packages: Vec<String>,
    /// Whether to resolve the packages again instead of using a cached result.
    #[serde(default)]
    pub refresh_packages: bool,
    /// The id of a checkpoint to start from; only timeouts and a name can be set with it.
    pub checkpoint: Option<String>,
    /// A name, unique among the caller's sandboxes that have not ended. It may be used in place of the id.
    #[schema(value_type = Option<String>, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub name: Option<ObjectName>,
}

/// New timeouts for a sandbox. Fields that are left out keep their values.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeoutsRequest {
    /// The sandbox ends after this many seconds without a request.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// The sandbox ends this many seconds after its start.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
}

/// How many sandboxes to fork from one.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRequest {
    /// The number of new sandboxes.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(default = "default_fork_count", deserialize_with = "whole_number")]
    pub count: usize,
}

fn default_fork_count() -> usize {
    1
}

/// Packages to install in a sandbox.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallRequest {
    /// The language of the packages: `python` or `javascript`.
    #[schema(schema_with = package_language_schema)]
    pub language: Language,
    /// The packages, with or without versions, such as `six==1.16.0` or `lodash@^4`.
    #[schema(min_items = 1, max_items = 50)]
    pub packages: Vec<String>,
}

/// A guest port to expose on the host's loopback interface.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRequest {
    /// The guest port.
    #[serde(deserialize_with = "whole_number")]
    #[schema(minimum = 1, maximum = 65535)]
    pub guest: u16,
    /// The host port; 0 = any free port.
    #[serde(default, deserialize_with = "whole_number")]
    #[schema(maximum = 65535)]
    pub host: u16,
}
