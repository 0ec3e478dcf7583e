use std::process::ExitCode;
use std::time::Duration;

use fumehood_engine::policy::Document;
use fumehood_engine::{Engine, Pool};
use fumehood_server::{Service, Settings, mcp};

use super::{policy, runtime};
use crate::args::{Agents, Host, Mcp};

pub(crate) fn run(args: &Mcp, host: &Host) -> anyhow::Result<ExitCode> {
    let mut config = host.config();
    config.pool = Pool {
        warm_vms: args.hot,
        ..Pool::default()
    };
    let settings = Settings {
        agents_network: network(&args.agents)?,
        // Nobody is there any more for whom a run could end.
        drain: Duration::ZERO,
        ..Settings::default()
    };
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let service = Service::open_in_memory(move || Engine::start(config.clone()), settings)?;
        mcp::stdio(&service)
            .await
            .map_err(anyhow::Error::from_boxed)
    });
    // A read of standard input that nothing comes to must not hold the command.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

/// What agents' code may reach.
///
/// # Errors
/// It is no policy.
pub(crate) fn network(agents: &Agents) -> anyhow::Result<Option<Document>> {
    let file = agents.mcp_policy.as_deref();
    if file.is_none() && agents.mcp_allow.is_empty() {
        return Ok(None);
    }
    let document = policy::document(file, &agents.mcp_allow)?;
    // What cannot be is said now, and not to an agent.
    policy::named(document.clone(), file)?;
    Ok(Some(document))
}
