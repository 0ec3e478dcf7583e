use thiserror::Error;

use super::ecosystem::Ecosystem;

/// URLs of one language's indexes at most; each is a host that is open.
pub const MAX_INDEXES: usize = 32;

/// Why this host's indexes are not known. What is wrong is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// Nothing is configured, and no tool is here to tell its default.
    #[error(
        "no {ecosystem} package index is configured on this host, and its tools do not tell one; {}",
        configure(*ecosystem)
    )]
    Unknown {
        /// Of what.
        ecosystem: Ecosystem,
    },
    /// A file that cannot be read.
    #[error("the configuration {file} cannot be read: {reason}")]
    File {
        /// Its path.
        file: String,
        /// Why.
        reason: String,
    },
    /// No URL.
    #[error("{setting} in {place} is no URL with http or https and a host; correct it there")]
    Url {
        /// Which setting.
        setting: String,
        /// The file, or the environment.
        place: String,
    },
    /// Past [`MAX_INDEXES`].
    #[error(
        "more than {MAX_INDEXES} {ecosystem} package indexes are configured on this host; name their hosts in the policy instead"
    )]
    Many {
        /// Of what.
        ecosystem: Ecosystem,
    },
}

fn configure(ecosystem: Ecosystem) -> &'static str {
    match ecosystem {
        Ecosystem::Python => {
            "set index-url in pip.conf or PIP_INDEX_URL, or name its hosts with `host`"
        }
        Ecosystem::JavaScript => {
            "set registry in ~/.npmrc or NPM_CONFIG_REGISTRY, or name its host with `host`"
        }
    }
}
