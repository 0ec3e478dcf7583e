//! `sandbox ports`.

use serde_json::{Value, json};

use super::lookup::{SandboxInfo, find, find_any};
use crate::args::SandboxPortsArgs;
use crate::io::print_line;
use crate::server_client::ServerClient;

/// Exposes ports, and prints the URLs of all exposed ports.
///
/// # Errors
/// There is no such sandbox, or a port cannot be exposed.
pub(super) async fn ports(server: &ServerClient, args: &SandboxPortsArgs) -> anyhow::Result<u8> {
    let sandbox = find(server, &args.sandbox).await?;
    for port in &args.expose {
        let path = format!("{}/ports", sandbox.path());
        let body = json!({ "guest": port.guest, "host": port.host });
        server.post(&path, &body).await?;
    }

    let sandbox = SandboxInfo::parse(&find_any(server, &sandbox.id).await?)?;
    if args.json {
        print_line(&Value::from(sandbox.urls))?;
        return Ok(0);
    }
    for url in &sandbox.urls {
        print_line(url)?;
    }
    Ok(0)
}
