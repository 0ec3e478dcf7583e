//! Arguments of `policy`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use fumehood_engine::policy::{Method, Target};

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Parse a policy and print its rules
    Check(PolicyCheckArgs),
    Explain(PolicyExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyCheckArgs {
    /// Policy file: TOML, or JSON if the name ends in `.json`
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Explain step by step whether a guest may reach a URL, and which rule decides.
///
/// Nothing is resolved or sent. Exit code: 0 if the policy allows the request, 1 if it denies it, 125 if fumehood failed.
#[derive(Debug, Args)]
pub(crate) struct PolicyExplainArgs {
    /// Policy file: TOML, or JSON if the name ends in `.json`
    #[arg(short, long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Additional rule; may be repeated. Examples: example.com, *.example.com:443,8443, 10.0.0.0/8:5432,
    /// [2001:db8::/32]:443, index:python
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
    /// Address that the URL's host name resolves to [default: a public address]
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    /// HTTP method of the request, for connections whose requests are inspected
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub(crate) method: Method,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Destination: https://HOST:PORT, http://…, udp://…, or tcp://… for any other protocol
    #[arg(value_name = "URL")]
    pub(crate) target: Target,
}
