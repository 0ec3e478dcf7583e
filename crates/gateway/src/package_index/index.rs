//! The index of an ecosystem.

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

/// Where the packages of an ecosystem come from.
///
/// Python's default index keeps its files on a second host, which pip knows and which is included. Other indexes may do
/// the same; name their additional hosts in the policy. Credentials in `netrc` and in keyrings are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The indexes, the main one first, without credentials.
    pub urls: Vec<Url>,
    /// The hosts and ports, without duplicates.
    pub hosts: Vec<(Host, NonZeroU16)>,
    /// The configured credentials.
    pub credentials: Vec<Credential>,
}

impl Index {
    /// Returns the index that this host's tools are configured for, in their files and in the environment; if none is
    /// configured, their default.
    ///
    /// Reads files, and may run `python3` or `npm` for a few seconds at most.
    ///
    /// # Errors
    /// Fails if a configuration cannot be read, or there is none.
    pub fn of_host(ecosystem: Ecosystem) -> Result<Self, IndexError> {
        Self::of(ecosystem, &ToolEnvironment::of_host())
    }

    /// Like [`Index::of_host`], but with the files and variables of `environment`.
    ///
    /// # Errors
    /// As [`Index::of_host`].
    pub fn of(ecosystem: Ecosystem, environment: &ToolEnvironment) -> Result<Self, IndexError> {
        let settings = match ecosystem {
            Ecosystem::Python => python::find(environment)?,
            Ecosystem::JavaScript => javascript::find(environment)?,
        };
        Self::from_settings(ecosystem, settings)
    }

    fn from_settings(ecosystem: Ecosystem, settings: IndexSettings) -> Result<Self, IndexError> {
        let IndexSettings {
            urls,
            file_hosts,
            credentials,
        } = settings;

        if urls.is_empty() {
            return Err(IndexError::Unknown { ecosystem });
        }

        if urls.len() > MAX_INDEXES {
            return Err(IndexError::TooMany { ecosystem });
        }

        // Each host and port once, in the order of the URLs.
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
