//! Options for the VM's network.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use fumehood_engine::policy::{Document, HostName, SecretEntry, SecretName};
use fumehood_engine::{Network, PortMapping, SecretValue};
use serde_json::{Map, Value, json};

use crate::policy_file::{build_policy, load_document};

/// Destinations that the VM may reach, secrets for them, and exposed ports.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Network (without any of these options the VM has no network device)"
)]
pub(crate) struct NetworkArgs {
    /// Allow the destinations in this policy file (TOML, or JSON if the name ends in `.json`); everything else is
    /// denied
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Allow a destination; may be repeated. Examples: example.com, *.example.com:443,8443, 10.0.0.0/8:5432,
    /// [2001:db8::/32]:443, index:python (the package index configured on this host), internet (every public host; private,
    /// loopback and metadata addresses remain denied)
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Send the value of the environment variable NAME with requests to the hosts of the policy's secret NAME, or to
    /// HOST in the Authorization header; may be repeated. The VM sees only a placeholder, in its variable NAME, never
    /// the value
    #[arg(long, value_name = "NAME[@HOST]")]
    secret: Vec<String>,
    /// Forward a port of this host's loopback interface to a port of the VM, for example 8080:3000, or 8080 for both;
    /// may be repeated. Host port 0 selects a free port
    #[arg(long, value_name = "PORT[:PORT]")]
    expose: Vec<PortMapping>,
}

impl NetworkArgs {
    /// Returns whether no option asks for a network.
    pub(crate) fn is_empty(&self) -> bool {
        self.policy.is_none()
            && self.allow.is_empty()
            && self.secret.is_empty()
            && self.expose.is_empty()
    }

    /// Returns the requested network, or `None` if no option asks for one.
    ///
    /// # Errors
    /// A policy, rule or secret is invalid, or a secret's variable is not set.
    pub(crate) fn network(&self) -> anyhow::Result<Option<Network>> {
        if self.is_empty() {
            return Ok(None);
        }

        let (document, secrets) = self.document()?;
        let mut network = Network::new(build_policy(document, self.policy.as_deref())?);
        for secret in secrets {
            let value = SecretValue::new(secret.value);
            let value = value.with_context(|| format!("--secret {}", secret.name))?;
            network = network.secret(secret.name, value);
        }
        for port in &self.expose {
            network = network.expose(*port);
        }
        Ok(Some(network))
    }

    /// Returns the requested network as the HTTP API takes it, or `None` if no option asks for one. It contains the
    /// values of secrets.
    ///
    /// # Errors
    /// As [`network`](Self::network).
    pub(crate) fn request(&self) -> anyhow::Result<Option<Value>> {
        // The same errors as without a server.
        if self.network()?.is_none() {
            return Ok(None);
        }

        let (document, secrets) = self.document()?;
        let secrets: Map<_, _> = secrets
            .into_iter()
            .map(|secret| (secret.name.to_string(), secret.value.into()))
            .collect();
        let expose: Vec<_> = self.expose.iter().map(ToString::to_string).collect();
        Ok(Some(json!({
            "policy": document,
            "secrets": secrets,
            "expose": expose,
        })))
    }

    /// Returns the policy, with the entries of secrets that name a host, and the secrets.
    fn document(&self) -> anyhow::Result<(Document, Vec<SecretArg>)> {
        let secrets: Vec<_> = self
            .secret
            .iter()
            .map(|arg| parse_secret(arg))
            .collect::<anyhow::Result<_>>()?;

        // A secret with a host extends the policy.
        let mut document = load_document(self.policy.as_deref(), &self.allow)?;
        let entries = secrets.iter().filter_map(|secret| secret.entry.clone());
        document.secret.extend(entries);
        Ok((document, secrets))
    }
}

struct SecretArg {
    name: SecretName,
    value: String,
    /// The policy entry for the host; `None` if the policy file has one.
    entry: Option<SecretEntry>,
}

/// Parses `NAME[@HOST]` and reads the value from the environment.
fn parse_secret(arg: &str) -> anyhow::Result<SecretArg> {
    let context = || format!("--secret {arg}");
    let (variable, host) = match arg.split_once('@') {
        Some((variable, host)) => (variable, Some(host)),
        None => (arg, None),
    };

    // The value comes from the environment, since other users can read arguments.
    let name: SecretName = variable.parse().with_context(context)?;
    let Ok(value) = std::env::var(variable) else {
        bail!(
            "--secret {arg}: the environment variable {variable} is not set; set it to the secret's value"
        );
    };
    let host: Option<HostName> = host.map(str::parse).transpose().with_context(context)?;

    Ok(SecretArg {
        entry: host.map(|host| SecretEntry::new(name.clone(), host)),
        name,
        value,
    })
}
