use std::time::{Duration, Instant};

use fumehood_protocol::{InstallPackages, Language, ProcessKind, Spawn, WireError};

use super::admission::check_operation_limit;
use super::client::Client;
use super::spawn::start_program;
use crate::agent::Agent;
use crate::operation::OperationParams;

/// Installs packages as the user that programs run as, and lists the packages that are installed then.
const INSTALL: &str = include_str!("../../runners/install.sh");

/// Starts to install packages.
///
/// # Errors
/// What [`InstallPackages::check`] returns; `busy_error`; `path_error` if the installer is missing; `agent_error` if the
/// process cannot be started.
pub(super) fn install_packages(
    client: &Client,
    request: &InstallPackages,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let (specs, timeout_s) = request.check(&agent.settings.limits)?;
    check_operation_limit(client, agent)?;

    // Look for the installer first: this error names it, the script's would not.
    let installer = match request.language {
        Language::Python => "uv",
        Language::Javascript | Language::Shell => "bun",
    };

    agent.interpreters.resolve_program(installer, true)?;

    let script = ["bash", "-c", INSTALL, "install", request.language.as_str()];
    let argv = script
        .into_iter()
        .chain(specs.iter().map(|spec| spec.as_str()));

    let spawn = Spawn::new(argv);
    let params = OperationParams {
        client: Some(client.connection.id),
        keyed: None,
        tag: None,
        kind: ProcessKind::Install,
        op_id: request.op_id,
        encoding: client.connection.session.encoding,
        credit: request.credit,
        timeout: Some(Duration::from_secs(timeout_s)),
        arrived: now,
    };

    let operation = start_program(&spawn, params, agent)?;
    agent.operations.add(operation);

    Ok(())
}
