//! `fumehood mcp`: serves MCP tools on standard input and output.

use std::process::ExitCode;
use std::time::Duration;

use fumehood_engine::policy::Document;
use fumehood_engine::{Engine, Pool};
use fumehood_server::{Service, Settings, mcp};

use crate::args::{HostArgs, McpArgs, McpNetworkArgs};
use crate::commands::runtime::start_runtime;
use crate::policy_file::{build_policy, load_document};

pub(crate) fn run(args: &McpArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let mut config = host.config();
    config.pool = Pool {
        warm_vms: args.warm_vms,
        ..Pool::default()
    };
    config.limits.timeout_s = args.timeout.seconds;
    let settings = Settings {
        max_timeout_s: args.timeout.seconds,
        mcp_policy: load_network(&args.network)?,
        // The only client has disconnected by then: no run needs time to finish.
        drain_timeout: Duration::ZERO,
        ..Settings::default()
    };

    let runtime = start_runtime()?;
    let result = runtime.block_on(async {
        let service = Service::open_in_memory(move || Engine::start(config.clone()), settings)?;
        mcp::stdio(&service)
            .await
            .map_err(anyhow::Error::from_boxed)
    });

    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the policy for code of MCP clients. Returns `None` if no option gives one.
///
/// # Errors
/// The policy is invalid.
pub(super) fn load_network(args: &McpNetworkArgs) -> anyhow::Result<Option<Document>> {
    let file = args.mcp_policy.as_deref();
    if file.is_none() && args.mcp_allow.is_empty() {
        return Ok(None);
    }

    let document = load_document(file, &args.mcp_allow)?;
    // Report an invalid policy at startup, not in a tool call.
    build_policy(document.clone(), file)?;
    Ok(Some(document))
}
