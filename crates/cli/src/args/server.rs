//! Arguments of `serve`, `mcp`, `keys` and `sandboxes`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::run::MAX_TIMEOUT_S;

/// Serve the HTTP API to this user's processes and to clients with an API key.
///
/// Runs until SIGTERM or SIGINT. docs/reference/http.md describes the API. Processes of this user connect over a Unix
/// socket without authentication. Other clients connect over TCP with an API key; create keys with `fumehood keys create`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// TCP address; an address other than loopback requires an API key to exist. Port 0 selects a free port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7474")]
    pub(crate) listen: SocketAddr,
    /// Do not listen on TCP
    #[arg(long)]
    pub(crate) no_tcp: bool,
    /// Path of the Unix socket [default: $XDG_RUNTIME_DIR/fumehood/server.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Additional allowed `Host` header; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Allow policies of requests with an API key to name private addresses, loopback and metadata services
    #[arg(long)]
    pub(crate) keys_reach_private: bool,
    /// Prepare VMs of each language ahead of requests. With KVM, N of them wait, about 50 MiB each; without it, hot images
    /// are kept up to date instead, and no VM waits
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warm_vms: usize,
    /// Maximum number of requests that wait for capacity
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) queue: usize,
    /// Maximum time that a request waits for capacity, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) queue_s: u64,
    /// Requests per second per key (burst: twice that); 0 disables rate limiting
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) rate: u32,
    /// What happens to idle sandboxes that do not say it themselves
    #[arg(long, value_name = "ACTION", default_value = "pause", value_parser = ["pause", "end"])]
    pub(crate) on_idle: String,
    /// Maximum number of paused sandboxes and durable checkpoints per key
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_states: u64,
    /// Disk space of the paused sandboxes and durable checkpoints of a key, in GiB, from which no more are saved
    #[arg(long, value_name = "GIB", default_value_t = 16,
        value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub(crate) max_state_gib: u64,
    /// Days after which paused sandboxes end and durable checkpoints are deleted
    #[arg(long, value_name = "DAYS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=36_500))]
    pub(crate) max_state_days: u64,
    /// Grace period for runs at shutdown, and then for pausing sandboxes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) drain_s: u64,
    #[command(flatten)]
    pub(crate) timeout: MaxTimeoutArgs,
    /// Exit after this many seconds without requests, runs or sandboxes
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) exit_when_idle: Option<u64>,
    /// Leave the session of the terminal; `sandbox create` starts the server in this way
    #[arg(long, hide = true)]
    pub(crate) background: bool,
    /// State file [default: $XDG_STATE_HOME/fumehood/server.sqlite]
    #[arg(long, env = "FUMEHOOD_STATE", value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Write the log as JSON lines
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(flatten)]
    pub(crate) mcp_network: McpNetworkArgs,
}

/// The longest run.
#[derive(Debug, Args)]
pub(crate) struct MaxTimeoutArgs {
    /// Maximum timeout that a run may ask for, in seconds
    #[arg(long = "max-timeout", env = "FUMEHOOD_MAX_TIMEOUT", value_name = "SECONDS",
        default_value_t = MAX_TIMEOUT_S, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) seconds: u64,
}

/// Destinations that code run by MCP clients may reach.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Network for MCP clients (without these options their code has no network)"
)]
pub(crate) struct McpNetworkArgs {
    /// Allow the destinations in this policy file for tool calls that request a network
    #[arg(long, value_name = "FILE")]
    pub(crate) mcp_policy: Option<PathBuf>,
    /// Allow a destination for tool calls that request a network; may be repeated. Same form as `fumehood run --allow`
    #[arg(long, value_name = "RULE")]
    pub(crate) mcp_allow: Vec<String>,
}

/// Serve MCP (Model Context Protocol) tools on standard input and output.
///
/// Runs until the client disconnects. docs/guides/mcp.md describes the tools. A running `fumehood serve` offers the same tools at /mcp.
#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    #[command(flatten)]
    pub(crate) timeout: MaxTimeoutArgs,
    #[command(flatten)]
    pub(crate) network: McpNetworkArgs,
    /// Prepare VMs of each language ahead of requests; see `fumehood serve --help`
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warm_vms: usize,
}

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
    /// State file of the server [default: $XDG_STATE_HOME/fumehood/server.sqlite]
    #[arg(long, env = "FUMEHOOD_STATE", value_name = "FILE", global = true)]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key and print it; it cannot be shown again
    Create {
        /// Name of the key
        name: String,
        /// Let the key list and end sandboxes of other keys, and read the metrics of all
        #[arg(long)]
        operator: bool,
    },
    /// List keys: name, ID, creation time, state
    List,
    /// Revoke a key (effective within 1 s), and end its requests, runs, sandboxes and checkpoints
    Revoke {
        /// Name of the key
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SandboxesArgs {
    #[command(subcommand)]
    pub(crate) command: SandboxesCommand,
    /// Path of the server's Unix socket [default: that of this user's server]
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxesCommand {
    /// List running sandboxes: ID, key, start, memory in MiB, name
    List {
        /// Only those of the key with this name or ID; `local` for those of this user
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
    },
    /// End a sandbox with everything that runs in it
    End {
        /// ID of the sandbox
        id: String,
    },
}
