//! The package indexes that this host's own tools are configured for.

mod javascript;
mod python;
mod reach;
mod source;
mod surroundings;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

pub use self::reach::{CredentialSlot, Hidden, IndexAccess, ReachError};
pub use self::surroundings::Surroundings;

use self::source::Found;
use super::name::Host;

/// URLs of one language's indexes at most; each is a host that is open.
pub const INDEXES: usize = 32;

/// A language whose packages come from an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// The index of pip and uv.
    Python,
    /// The registry of npm and bun.
    JavaScript,
}

impl Language {
    fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Python, Self::JavaScript]
            .into_iter()
            .find(|language| language.as_str() == text)
            .ok_or(())
    }
}

/// Where one language's packages come from.
///
/// Python's default index keeps its files on a second host, which pip knows and which is here as well. Other
/// indexes may do the like; their further hosts go into a policy by name. Credentials in `netrc` and in
/// keyrings are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The indexes, the main one first, without credentials.
    pub urls: Vec<Url>,
    /// Their hosts and ports, each once.
    pub hosts: Vec<(Host, NonZeroU16)>,
    /// What the tools are configured to show there.
    pub credentials: Vec<Credential>,
}

/// What a tool shows to an index. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// To which.
    pub url: Url,
    /// What.
    pub login: Login,
}

/// Who one is for an index. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// The user and password as `Authorization: Basic` has them.
    Encoded(String),
    /// A token, as `Authorization: Bearer` has it.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, {:?})", self.url, self.login)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// Why this host's indexes are not known. What is wrong is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// Nothing is configured, and no tool is here to tell its default.
    #[error(
        "no {language} package index is configured on this host, and its tools do not tell one; {}",
        configure(*language)
    )]
    Unknown {
        /// Of what.
        language: Language,
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
    /// Past [`INDEXES`].
    #[error(
        "more than {INDEXES} {language} package indexes are configured on this host; name their hosts in the policy instead"
    )]
    Many {
        /// Of what.
        language: Language,
    },
}

fn configure(language: Language) -> &'static str {
    match language {
        Language::Python => {
            "set index-url in pip.conf or PIP_INDEX_URL, or name its hosts with `host`"
        }
        Language::JavaScript => {
            "set registry in ~/.npmrc or NPM_CONFIG_REGISTRY, or name its host with `host`"
        }
    }
}

impl Index {
    /// What this host's tools are configured for, in their files and in the environment; where that is
    /// nothing, what they say their default is.
    ///
    /// Reads files, and may run `python3` or `npm` for a few seconds at most.
    ///
    /// # Errors
    /// A configuration cannot be read, or there is none.
    pub fn of_host(language: Language) -> Result<Self, IndexError> {
        Self::of(language, &Surroundings::of_host())
    }

    /// The same with the environment and the files of `surroundings`.
    ///
    /// # Errors
    /// As [`Index::of_host`].
    pub fn of(language: Language, surroundings: &Surroundings) -> Result<Self, IndexError> {
        let found = match language {
            Language::Python => python::find(surroundings)?,
            Language::JavaScript => javascript::find(surroundings)?,
        };
        Self::of_found(language, found)
    }

    fn of_found(language: Language, found: Found) -> Result<Self, IndexError> {
        let Found {
            urls,
            further,
            credentials,
        } = found;
        if urls.is_empty() {
            return Err(IndexError::Unknown { language });
        }
        if urls.len() > INDEXES {
            return Err(IndexError::Many { language });
        }
        let mut seen = BTreeSet::new();
        let hosts = urls.iter().chain(&further).filter_map(host_and_port);
        let hosts = hosts.filter(|pair| seen.insert(pair.clone())).collect();
        Ok(Self {
            urls,
            hosts,
            credentials,
        })
    }
}

/// None only where a URL has no host, of which there is none here.
fn host_and_port(url: &Url) -> Option<(Host, NonZeroU16)> {
    let port = url.port_or_known_default().and_then(NonZeroU16::new)?;
    Some((url.host_str()?.parse().ok()?, port))
}

#[cfg(test)]
mod tests;
