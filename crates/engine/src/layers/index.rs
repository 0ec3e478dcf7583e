use std::collections::BTreeMap;
use std::time::Duration;

use fumehood_gateway::SecretValue;
use fumehood_gateway::policy::{
    CredentialSlot, Ecosystem, Host, HostName, Index, IndexAccess, special,
};
use fumehood_protocol::Language;

use crate::error::{Error, ErrorKind};
use crate::network::{Network, PreparedNetwork};

/// A builder's access to the package index that this host's own tools are configured for, and to nothing else.
/// Credentials stay on the host; the guest has placeholders for them.
#[derive(Debug)]
pub(crate) struct PackageIndex {
    language: Language,
    access: IndexAccess,
    network: Network,
    urls: Vec<String>,
}

/// How long this host may take to look up the name of an index.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the policy, in messages about denied connections.
const POLICY_NAME: &str = "package index";

impl PackageIndex {
    /// Reads this host's configuration. This reads files, and may run `python3` or `npm`.
    ///
    /// # Errors
    /// Returns [`ErrorKind::Missing`] if nothing is configured, and [`ErrorKind::Invalid`] if the configuration
    /// cannot be used.
    pub(crate) async fn of_host(language: Language) -> Result<Self, Error> {
        let index_language = match language {
            Language::Javascript => Ecosystem::JavaScript,
            Language::Python | Language::Shell => Ecosystem::Python,
        };

        // Reading the configuration may run programs.
        let found = tokio::task::spawn_blocking(move || Index::of_host(index_language)).await;
        let found = found.map_err(|e| Error::new(ErrorKind::Host, e.to_string()))?;
        let index =
            found.map_err(|e| Error::new(ErrorKind::Missing, e.to_string()).caused_by(e))?;

        let invalid = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Invalid, e.to_string());
        let access = index
            .reach(POLICY_NAME, &special_addresses(&index).await)
            .map_err(|e| invalid(&e))?;

        // The gateway inserts the credentials; the guest gets placeholders.
        let mut network = Network::new(access.policy.clone());
        for (name, value) in &access.values {
            let value = SecretValue::new(value.0.clone())
                .map_err(|e| invalid(&format!("invalid credentials of a package index: {e}")))?;
            network = network.secret(name.clone(), value);
        }

        Ok(Self {
            language,
            access,
            network,
            urls: index.urls.iter().map(ToString::to_string).collect(),
        })
    }

    /// Returns the URLs of the indexes, without credentials.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the path of the package manager's configuration in the guest's home, and its content.
    pub(crate) fn configuration(&self, network: &PreparedNetwork) -> (&'static str, String) {
        let slots = self.access.places(network.config.vault.environment());
        match self.language {
            Language::Javascript => (".bunfig.toml", bun_config(&slots)),
            Language::Python | Language::Shell => (".config/uv/uv.toml", uv_config(&slots)),
        }
    }
}

/// Returns the special addresses of the indexes' hosts, by name. A name that is not found is reported when the guest
/// looks it up.
async fn special_addresses(index: &Index) -> BTreeMap<HostName, Vec<std::net::IpAddr>> {
    let mut all = BTreeMap::new();
    for (host, port) in &index.hosts {
        let Host::Name(name) = host else { continue };
        let lookup = tokio::net::lookup_host((name.to_string(), port.get()));
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await;

        let found = found.ok().and_then(Result::ok).into_iter().flatten();
        let addresses = found.map(|address| address.ip());
        let special = addresses.filter(|address| special(*address).is_some());
        all.insert(name.clone(), special.collect());
    }

    all
}

/// Returns uv's configuration. A URL contains no quotes and no backslashes: they are percent-encoded.
fn uv_config(slots: &[CredentialSlot]) -> String {
    let mut text = String::new();
    let (main, others) = match slots {
        [] => return text,
        [main, others @ ..] => (main, others),
    };

    // uv searches the default index last.
    for slot in others {
        text += &format!("[[index]]\nurl = \"{}\"\n", slot.url);
    }

    text + &format!("[[index]]\nurl = \"{}\"\ndefault = true\n", main.url)
}

/// Returns bun's configuration. A placeholder consists of letters, digits and hyphens.
fn bun_config(slots: &[CredentialSlot]) -> String {
    let Some(CredentialSlot { url, token }) = slots.first() else {
        return String::new();
    };

    match token {
        Some(token) => {
            format!("[install]\nregistry = {{ url = \"{url}\", token = \"{token}\" }}\n")
        }
        None => format!("[install]\nregistry = \"{url}\"\n"),
    }
}
