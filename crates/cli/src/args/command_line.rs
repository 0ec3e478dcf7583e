//! The whole command line.

use clap::Parser;

use super::agent::AgentArgs;
use super::host::HostArgs;
use super::policy::PolicyArgs;
use super::run::RunArgs;
use super::server::{KeysArgs, McpArgs, ServeArgs};
use super::sessions::{ReplArgs, ShellArgs};
use super::store::{ImageArgs, LayerArgs, TemplateArgs};

/// Run untrusted code in disposable microVMs on this machine.
#[derive(Debug, Parser)]
#[command(name = "fumehood", version, max_term_width = 100)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(subcommand)]
    pub(crate) command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    /// Run code in a fresh VM, stream its output and exit with its exit code
    Run(RunArgs),
    /// Open a terminal in a fresh VM
    Shell(ShellArgs),
    /// Run code interactively in a fresh VM; state is kept between inputs
    Repl(ReplArgs),
    /// Check this machine: status, impact and how to fix it
    Doctor,
    /// Build, list and verify guest images
    Image(ImageArgs),
    /// Build, list and prune warm templates, from which runs are restored
    Template(TemplateArgs),
    /// List and prune cached package layers, which `run -p` creates
    Layer(LayerArgs),
    /// Start a VM and serve its agent's protocol on a loopback TCP port
    Agent(AgentArgs),
    /// Check a network policy, or explain its decision about a URL
    Policy(PolicyArgs),
    /// Serve the HTTP API to this user's processes and to clients with an API key
    Serve(ServeArgs),
    /// Serve MCP (Model Context Protocol) tools on standard input and output
    Mcp(McpArgs),
    /// Create, list and revoke API keys
    Keys(KeysArgs),
    /// Print a completion script for a shell
    Completions {
        /// Shell that the script is for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        CommandLine::command().debug_assert();
    }
}
