//! Arguments of `agent`.

use std::net::SocketAddr;

use clap::Args;

/// Start a VM and serve its agent's protocol on a loopback TCP port.
///
/// Runs until interrupted. For protocol clients in any language, including version 0 of the protocol. One client at a time.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Loopback address; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// Accept any local program, without a token
    #[arg(long)]
    pub(crate) no_token: bool,
    /// Memory of the VM
    #[arg(short, long, value_name = "MIB", default_value_t = 512)]
    pub(crate) memory: u32,
}
