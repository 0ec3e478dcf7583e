//! Why the indexes of this host cannot be determined.

use thiserror::Error;

use super::ecosystem::Ecosystem;

/// Maximum number of index URLs of one ecosystem. Each opens a host.
pub const MAX_INDEXES: usize = 32;

/// Why the indexes of this host cannot be determined. The invalid text is not repeated, because it may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// No index is configured, and no installed tool reports its default.
    #[error(
        "no {ecosystem} package index is configured on this host, and no installed tool reports a default; {}",
        configuration_advice(*ecosystem)
    )]
    Unknown {
        /// The ecosystem.
        ecosystem: Ecosystem,
    },
    /// A configuration file cannot be read.
    #[error("cannot read the configuration {file}: {reason}")]
    File {
        /// The path.
        file: String,
        /// The reason.
        reason: String,
    },
    /// A setting is not a URL.
    #[error("{setting} in {location} is not an http or https URL with a host; correct it there")]
    Url {
        /// The setting.
        setting: String,
        /// The file, or the environment.
        location: String,
    },
    /// There are more than [`MAX_INDEXES`].
    #[error(
        "more than {MAX_INDEXES} {ecosystem} package indexes are configured on this host; name their hosts in the policy instead"
    )]
    TooMany {
        /// The ecosystem.
        ecosystem: Ecosystem,
    },
}

fn configuration_advice(ecosystem: Ecosystem) -> &'static str {
    match ecosystem {
        Ecosystem::Python => {
            "set index-url in pip.conf or PIP_INDEX_URL, or name its hosts with `host`"
        }
        Ecosystem::JavaScript => {
            "set registry in ~/.npmrc or NPM_CONFIG_REGISTRY, or name its host with `host`"
        }
    }
}
