//! Arguments of `conformance`.

use std::num::NonZeroU32;

use clap::Args;
use fumehood_conformance::Address;

/// Test an agent of the protocol, clause by clause.
///
/// The clauses are those of the protocol's specification (docs/reference/protocol.md). The agent may be any program that
/// speaks the protocol. The exit code is 0 if it violates no clause, else 1.
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// Agent: tcp://HOST:PORT or unix:PATH
    pub(crate) address: Address,
    /// Token of the agent
    #[arg(long, env = "FUMEHOOD_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Version of the protocol; 1 includes 0
    #[arg(long, value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1))]
    pub(crate) version: u32,
    /// Only this clause or family of clauses, such as FRAME-3 or FILE; can be repeated
    #[arg(long = "clause", value_name = "ID")]
    pub(crate) clauses: Vec<String>,
    /// Install packages, too; the agent needs an index
    #[arg(long)]
    pub(crate) packages: bool,
    /// Time for each answer
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(crate) deadline: NonZeroU32,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
