use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

/// Offers the HTTP API of docs/reference/http.md until it is ended by SIGTERM or SIGINT.
///
/// This user's own processes come in by a Unix socket, and need nothing; others by TCP, with a key that `fumehood
/// keys` has made.
#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// The TCP address; another one than loopback's needs a key to be there. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7474")]
    pub(crate) listen: SocketAddr,
    /// Listens at no TCP address
    #[arg(long)]
    pub(crate) no_tcp: bool,
    /// The Unix socket [default: $XDG_RUNTIME_DIR/fumehood/server.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Another name by which it may be called; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// Lets policies that come by a key name private addresses, loopback and metadata services
    #[arg(long)]
    pub(crate) keys_reach_private: bool,
    /// VMs of each language that are kept ready, some 50 MiB each
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) hot: usize,
    /// QEMU processes that are kept ready for any language, some 35 MiB each
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) blank: usize,
    /// Requests that may wait for room at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) queue: usize,
    /// Seconds that each may wait
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) queue_s: u64,
    /// Requests a second of one key, in bursts of twice that; 0 = as many as they like
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) rate: u32,
    /// Seconds that runs may go on once it is to end
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) drain_s: u64,
    /// Ends when for so long nothing was asked, and no run and no sandbox is there
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) exit_when_idle: Option<u64>,
    /// The file of its state [default: $XDG_STATE_HOME/fumehood/server.sqlite]
    #[arg(long, env = "FUMEHOOD_STATE", value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Logs lines of JSON
    #[arg(long)]
    pub(crate) log_json: bool,
    #[command(flatten)]
    pub(crate) agents: Agents,
}

/// What agents may have done that come by the Model Context Protocol.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Agents (without one of these, their code gets no network)")]
pub(crate) struct Agents {
    /// Lets code that an agent asks a network for reach what the rules of this file allow
    #[arg(long, value_name = "FILE")]
    pub(crate) mcp_policy: Option<PathBuf>,
    /// Lets code that an agent asks a network for reach this; may be repeated. As --allow of `fumehood run`
    #[arg(long, value_name = "RULE")]
    pub(crate) mcp_allow: Vec<String>,
}

/// Offers tools to an agent by the Model Context Protocol on standard input and output, until it goes away.
///
/// What an agent is told is in docs/guides/mcp.md. A running `fumehood serve` offers the same at /mcp.
#[derive(Debug, ClapArgs)]
pub(crate) struct Mcp {
    #[command(flatten)]
    pub(crate) agents: Agents,
    /// VMs of each language that are kept ready, some 50 MiB each
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) hot: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
    /// The file of the server's state [default: $XDG_STATE_HOME/fumehood/server.sqlite]
    #[arg(long, env = "FUMEHOOD_STATE", value_name = "FILE", global = true)]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Makes a key and prints it, once
    Create {
        /// What it is called
        name: String,
    },
    /// Lists keys: name, id, when it was made, whether it is valid
    List,
    /// Makes a key good for nothing, within a second; what belongs to it stays until it ends
    Revoke {
        /// What it is called
        name: String,
    },
}
