use std::time::{Duration, Instant};

use fumehood_protocol::{InstallPackages, Language, ProcessKind, Spawn, WireError};

use crate::agent::Agent;
use crate::connection::Connection;
use crate::dispatch::room;
use crate::operation::Terms;
use crate::program::start;

/// Installs packages, as the user that programs run as, and tells which ones are there then.
const INSTALL: &str = include_str!("../runners/install.sh");

/// Begins to install packages.
///
/// # Errors
/// What [`InstallPackages::check`] says; `agent_error`: what this machine cannot do, or lacks.
pub(crate) fn install_packages(
    connection: &Connection,
    request: &InstallPackages,
    agent: &mut Agent,
    now: Instant,
) -> Result<(), WireError> {
    let (specs, timeout_s) = request.check(&agent.settings.limits)?;
    room(connection, agent)?;
    let installer = match request.language {
        Language::Python => "uv",
        Language::Javascript | Language::Shell => "bun",
    };
    // What is missing is named, rather than found missing by a script.
    agent.interpreters.program(installer)?;
    let script = ["bash", "-c", INSTALL, "install", request.language.as_str()];
    let words = script
        .into_iter()
        .chain(specs.iter().map(|spec| spec.as_str()));
    let spawn = Spawn::new(words);
    let terms = Terms {
        client: Some(connection.id),
        keyed: None,
        tag: None,
        kind: ProcessKind::Install,
        op_id: request.op_id,
        encoding: connection.session.encoding,
        credit: request.credit,
        timeout: Some(Duration::from_secs(timeout_s)),
        arrived: now,
    };
    let operation = start(&spawn, terms, agent)?;
    agent.operations.add(operation);
    Ok(())
}
