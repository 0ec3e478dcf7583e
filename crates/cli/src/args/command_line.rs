//! The whole command line.

use clap::Parser;

use super::agent::AgentArgs;
use super::conformance::ConformanceArgs;
use super::host::HostArgs;
use super::policy::PolicyArgs;
use super::run::RunArgs;
use super::sandbox::SandboxArgs;
use super::server::{KeysArgs, McpArgs, SandboxesArgs, ServeArgs};
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

// The help of a variant without a comment is that of its arguments: a comment here would hide their long description.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    Run(RunArgs),
    Shell(ShellArgs),
    Repl(ReplArgs),
    #[command(visible_alias = "sb")]
    Sandbox(SandboxArgs),
    /// Check this machine: status, impact and how to fix it
    Doctor,
    /// Build, list and verify guest images
    Image(ImageArgs),
    /// Build, list and prune warm templates, from which runs are restored
    Template(TemplateArgs),
    /// List and prune cached package layers, which `run -p` creates
    Layer(LayerArgs),
    Agent(AgentArgs),
    Conformance(ConformanceArgs),
    /// Check a network policy, or explain its decision about a URL
    Policy(PolicyArgs),
    Serve(ServeArgs),
    Mcp(McpArgs),
    /// Create, list and revoke API keys
    Keys(KeysArgs),
    /// List and end the sandboxes of all keys of a server
    Sandboxes(SandboxesArgs),
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
