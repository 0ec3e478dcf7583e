use std::collections::BTreeSet;
use std::num::NonZeroU16;

use url::Url;

use super::credential::Credential;
use super::ecosystem::Ecosystem;
use super::error::{IndexError, MAX_INDEXES};
use super::settings::{IndexSettings, host_and_port};
use super::tool_environment::ToolEnvironment;
use super::{javascript, python};
use crate::value::Host;

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

impl Index {
    /// What this host's tools are configured for, in their files and in the environment; where that is
    /// nothing, what they say their default is.
    ///
    /// Reads files, and may run `python3` or `npm` for a few seconds at most.
    ///
    /// # Errors
    /// A configuration cannot be read, or there is none.
    pub fn of_host(ecosystem: Ecosystem) -> Result<Self, IndexError> {
        Self::of(ecosystem, &ToolEnvironment::of_host())
    }

    /// The same with the environment and the files of `environment`.
    ///
    /// # Errors
    /// As [`Index::of_host`].
    pub fn of(ecosystem: Ecosystem, environment: &ToolEnvironment) -> Result<Self, IndexError> {
        let found = match ecosystem {
            Ecosystem::Python => python::find(environment)?,
            Ecosystem::JavaScript => javascript::find(environment)?,
        };
        Self::from_settings(ecosystem, found)
    }

    fn from_settings(ecosystem: Ecosystem, found: IndexSettings) -> Result<Self, IndexError> {
        let IndexSettings {
            urls,
            file_hosts,
            credentials,
        } = found;
        if urls.is_empty() {
            return Err(IndexError::Unknown { ecosystem });
        }
        if urls.len() > MAX_INDEXES {
            return Err(IndexError::Many { ecosystem });
        }
        let mut seen = BTreeSet::new();
        let hosts = urls.iter().chain(&file_hosts).filter_map(host_and_port);
        let hosts = hosts.filter(|pair| seen.insert(pair.clone())).collect();
        Ok(Self {
            urls,
            hosts,
            credentials,
        })
    }
}
