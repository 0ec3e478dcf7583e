//! The command line, as clap parses it, with the conversions of options to the engine's types. What a command does with
//! its arguments does not belong here.

mod agent;
mod command_line;
mod conformance;
mod environment;
mod host;
mod mount;
mod network;
mod packages;
mod policy;
mod run;
mod sandbox;
mod server;
mod sessions;
mod store;

pub(crate) use agent::AgentArgs;
pub(crate) use command_line::{CommandLine, Subcommand};
pub(crate) use conformance::ConformanceArgs;
pub(crate) use environment::EnvironmentArgs;
pub(crate) use host::HostArgs;
pub(crate) use mount::SyncBackArgs;
pub(crate) use policy::{PolicyArgs, PolicyCheckArgs, PolicyCommand, PolicyExplainArgs};
pub(crate) use run::RunArgs;
pub(crate) use sandbox::{
    SandboxArgs, SandboxCheckpointCommand, SandboxCommand, SandboxCopyArgs, SandboxCreateArgs,
    SandboxDiffArgs, SandboxEndArgs, SandboxExecArgs, SandboxForkArgs, SandboxInputArgs,
    SandboxListArgs, SandboxLogsArgs, SandboxPortsArgs, SandboxRunArgs, SandboxShellArgs,
};
pub(crate) use server::{
    KeysArgs, KeysCommand, McpArgs, McpNetworkArgs, SandboxesArgs, SandboxesCommand, ServeArgs,
};
pub(crate) use sessions::{ReplArgs, ShellArgs};
pub(crate) use store::{
    ImageArgs, ImageBuildArgs, ImageCommand, KernelArg, LayerArgs, LayerCommand, MissingImageArgs,
    PruneArgs, TemplateArgs, TemplateBuildArgs, TemplateCommand,
};
