use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use fumehood_engine::policy::{HostName, SecretEntry, SecretName};
use fumehood_engine::{Network, PortMapping, SecretValue};

use crate::policy_file;

/// What a VM may reach, and who may reach it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network (without one of these the VM has no network device at all)")]
pub(crate) struct NetworkArgs {
    /// Lets the VM reach what the rules of this file allow, and nothing else
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Lets the VM reach this; may be repeated. example.com, *.example.com:443,8443, 10.0.0.0/8:5432,
    /// [2001:db8::/32]:443 or index:python, the package index that this host's tools use
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Puts the value of this command's variable NAME into requests to a host that the policy's secret of that
    /// name is for, or to HOST (in the header authorization); the VM has a placeholder in its variable NAME and
    /// never the value. May be repeated
    #[arg(long, value_name = "NAME[@HOST]")]
    secret: Vec<String>,
    /// Passes connections to a port of this host's loopback interface on to a port of the VM, as in 8080:3000,
    /// or 8080 for both; 0 takes a free one here. May be repeated
    #[arg(long, value_name = "PORT[:PORT]")]
    expose: Vec<PortMapping>,
}

impl NetworkArgs {
    /// The network that is asked for; none: the VM is to have none.
    pub(crate) fn network(&self) -> anyhow::Result<Option<Network>> {
        if self.policy.is_none()
            && self.allow.is_empty()
            && self.expose.is_empty()
            && self.secret.is_empty()
        {
            return Ok(None);
        }
        let secrets = self.secret.iter().map(|word| parse(word));
        let secrets: Vec<_> = secrets.collect::<anyhow::Result<_>>()?;
        let mut document = policy_file::document(self.policy.as_deref(), &self.allow)?;
        let entries = secrets.iter().filter_map(|secret| secret.entry.clone());
        document.secret.extend(entries);
        let mut network = Network::new(policy_file::named(document, self.policy.as_deref())?);
        for secret in secrets {
            network = network.secret(secret.name, secret.value);
        }
        for expose in &self.expose {
            network = network.expose(*expose);
        }
        Ok(Some(network))
    }
}

struct Secret {
    name: SecretName,
    value: SecretValue,
    /// To whom it goes, where the policy's file does not say.
    entry: Option<SecretEntry>,
}

fn parse(word: &str) -> anyhow::Result<Secret> {
    let (name, host) = match word.split_once('@') {
        Some((name, host)) => (name, Some(host)),
        None => (word, None),
    };
    let parsed: SecretName = name.parse().with_context(|| format!("--secret {word}"))?;
    let Ok(value) = std::env::var(name) else {
        bail!("--secret {word}: there is no variable {name} here whose value it could be; set it");
    };
    let value = SecretValue::new(value).with_context(|| format!("--secret {word}"))?;
    let host: Option<HostName> = host
        .map(str::parse)
        .transpose()
        .with_context(|| format!("--secret {word}"))?;
    Ok(Secret {
        entry: host.map(|host| SecretEntry::new(parsed.clone(), host)),
        name: parsed,
        value,
    })
}
