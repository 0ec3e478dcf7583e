//! Requests about sandboxes.

use std::collections::BTreeMap;

use fumehood_engine::Language;
use serde::{Deserialize, Serialize};
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
    /// The sandbox is paused, or ends, after this many seconds without work; 300 by default.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// What happens after the idle timeout: `pause`, the default of most servers, or `end`.
    #[serde(default)]
    pub on_idle: Option<OnIdle>,
    /// The sandbox ends once it has existed for this many seconds; 86,400 by default.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
    /// Whether `max_lifetime_s` counts the time in which the sandbox is paused: `running` (no, the default) or `always`.
    #[serde(default)]
    pub lifetime_counts: Option<LifetimeCounts>,
    /// Save the running sandbox this often, in seconds: if the server is killed, it continues from the last save.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 5, maximum = 31_536_000)]
    pub checkpoint_every_s: Option<u64>,
    /// The network; none by default.
    pub network: Option<NetworkRequest>,
    /// Packages of `language` to install first, with or without versions.
    #[schema(max_items = 50)]
    #[serde(default)]
    pub packages: Vec<String>,
    /// Whether to resolve the packages again instead of using a cached result.
    #[serde(default)]
    pub refresh_packages: bool,
    /// The id or name of a checkpoint to start from; only timeouts, a name and, if it is durable, a network can be set with
    /// it.
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
    /// The sandbox is paused, or ends, after this many seconds without work.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub idle_timeout_s: Option<u64>,
    /// What happens after the idle timeout.
    #[serde(default)]
    pub on_idle: Option<OnIdle>,
    /// The sandbox ends once it has existed for this many seconds.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_lifetime_s: Option<u64>,
    /// Whether `max_lifetime_s` counts the time in which the sandbox is paused.
    #[serde(default)]
    pub lifetime_counts: Option<LifetimeCounts>,
}

/// What happens to a sandbox after its idle timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnIdle {
    /// It is paused: its state is saved, and the next call resumes it.
    Pause,
    /// It ends.
    End,
}

/// Which time counts for the maximum lifetime of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LifetimeCounts {
    /// The time in which it is running.
    #[default]
    Running,
    /// All time since its start.
    Always,
}

/// A checkpoint to create. All fields are optional.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointRequest {
    /// A name, unique among the caller's checkpoints. It may be used in place of the id.
    #[schema(value_type = Option<String>, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    #[serde(default)]
    pub name: Option<ObjectName>,
    /// Whether the checkpoint is written to disk and survives the server. By default one with a name is.
    #[serde(default)]
    pub durable: Option<bool>,
}

/// The settings of a sandbox that is resumed.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// The values of the policy's secrets, by name, in place of the earlier ones. A restarted server has none.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
}

impl std::fmt::Debug for ResumeRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Names only: the values of secrets must not reach a log.
        let names: Vec<_> = self.secrets.keys().collect();
        f.debug_struct("ResumeRequest")
            .field("secrets", &names)
            .finish()
    }
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
