use std::collections::BTreeMap;
use std::time::Duration;

use fumehood_gateway::SecretValue;
use fumehood_gateway::policy::{
    CredentialSlot, Host, Index, IndexAccess, Language as IndexLanguage, special,
};
use fumehood_protocol::Language;

use crate::error::{Error, ErrorKind};
use crate::network::{Network, Prepared};

/// The way of a builder to the index that this host's own tools are configured for, and to nothing else.
/// Credentials stay here; the guest has placeholders for them.
#[derive(Debug)]
pub(crate) struct PackageIndex {
    language: Language,
    reach: IndexAccess,
    network: Network,
    urls: Vec<String>,
}

/// How long this host may take to look up the name of an index.
const LOOKUP: Duration = Duration::from_secs(10);

/// The policy's name, in refusals.
const POLICY: &str = "package index";

impl PackageIndex {
    /// What this host is configured for. Reads files, and may run `python3` or `npm`.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`]: nothing is configured; [`ErrorKind::Invalid`]: what is cannot be used.
    pub(crate) async fn of_host(language: Language) -> Result<Self, Error> {
        let whose = match language {
            Language::Javascript => IndexLanguage::JavaScript,
            Language::Python | Language::Shell => IndexLanguage::Python,
        };
        let found = tokio::task::spawn_blocking(move || Index::of_host(whose)).await;
        let found = found.map_err(|e| Error::new(ErrorKind::Host, e.to_string()))?;
        let index =
            found.map_err(|e| Error::new(ErrorKind::Missing, e.to_string()).caused_by(e))?;
        let invalid = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Invalid, e.to_string());
        let reach = index
            .reach(POLICY, &special_addresses(&index).await)
            .map_err(|e| invalid(&e))?;
        let mut network = Network::new(reach.policy.clone());
        for (name, value) in &reach.values {
            let value = SecretValue::new(value.0.clone()).map_err(|e| {
                invalid(&format!(
                    "the credentials of a package index cannot be used: {e}"
                ))
            })?;
            network = network.secret(name.clone(), value);
        }
        Ok(Self {
            language,
            reach,
            network,
            urls: index.urls.iter().map(ToString::to_string).collect(),
        })
    }

    /// The indexes, without credentials.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The name of the tool's file of configuration in the guest's home, and what is in it.
    pub(crate) fn configuration(&self, prepared: &Prepared) -> (&'static str, String) {
        let places = self.reach.places(prepared.kept.vault.environment());
        match self.language {
            Language::Javascript => (".bunfig.toml", bunfig(&places)),
            Language::Python | Language::Shell => (".config/uv/uv.toml", uv(&places)),
        }
    }
}

/// The special addresses of an index's hosts, by name. That one is not found shows when the guest asks for it.
async fn special_addresses(
    index: &Index,
) -> BTreeMap<fumehood_gateway::policy::HostName, Vec<std::net::IpAddr>> {
    let mut all = BTreeMap::new();
    for (host, port) in &index.hosts {
        let Host::Name(name) = host else { continue };
        let asked = tokio::net::lookup_host((name.to_string(), port.get()));
        let found = tokio::time::timeout(LOOKUP, asked).await;
        let found = found.ok().and_then(Result::ok).into_iter().flatten();
        let addresses = found.map(|address| address.ip());
        let special = addresses.filter(|address| special(*address).is_some());
        all.insert(name.clone(), special.collect());
    }
    all
}

/// A URL has no quotes and no backslashes in it: there they are escaped.
fn uv(places: &[CredentialSlot]) -> String {
    let mut text = String::new();
    let (main, further) = match places {
        [] => return text,
        [main, further @ ..] => (main, further),
    };
    // uv asks the default one last.
    for place in further {
        text += &format!("[[index]]\nurl = \"{}\"\n", place.url);
    }
    text + &format!("[[index]]\nurl = \"{}\"\ndefault = true\n", main.url)
}

/// A placeholder is of letters, digits and hyphens.
fn bunfig(places: &[CredentialSlot]) -> String {
    let Some(CredentialSlot { url, token }) = places.first() else {
        return String::new();
    };
    match token {
        Some(token) => {
            format!("[install]\nregistry = {{ url = \"{url}\", token = \"{token}\" }}\n")
        }
        None => format!("[install]\nregistry = \"{url}\"\n"),
    }
}
