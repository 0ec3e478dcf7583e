//! The operator's settings, and the rules for limits.

use std::path::Path;

use fumehood_protocol::Limits;

/// PATH of programs where the agent itself has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories below the user's home where packages install their programs: those of pip, and those of npm and bun. The
/// user's programs search them first.
const PACKAGE_PROGRAMS: [&str; 2] = [".local/bin", "node_modules/.bin"];

/// Returns the directories of the packages' programs for a user with this home, as the first part of PATH.
pub(crate) fn package_program_path(home: &Path) -> String {
    let directories = PACKAGE_PROGRAMS.map(|below| home.join(below).display().to_string());
    directories.join(":")
}

/// Maximum value of any limit. As bytes it is more than any machine has and as seconds more than a century, so sums of
/// times and sizes stay far from overflow.
const MAX_LIMIT: u64 = 1 << 32;

/// Settings that are fixed when the agent starts. A refresh can change the limits and the boot id.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Maxima for what clients request.
    pub(crate) limits: Limits,
    /// The secret that `hello` must contain. There is none in fumehood's own VMs and with `--no-token`.
    pub(crate) token: Option<String>,
    /// A different id after every boot.
    pub(crate) boot_id: String,
}

/// The agent's version, as every answer contains it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Sets a limit to a value that the agent can work with.
///
/// # Errors
/// Returns a message for the operator or the client.
pub(crate) fn set_limit_value(limits: &mut Limits, name: &str, value: u64) -> Result<(), String> {
    if value > MAX_LIMIT {
        return Err(format!(
            "the limit {name} may be at most {MAX_LIMIT}, not {value}"
        ));
    }

    limits.set(name, value)?;
    if limits.chunk_bytes == 0 || limits.queued_bytes == 0 {
        return Err(format!(
            "the limit {name} must be at least 1: with 0 nothing could be sent"
        ));
    }

    Ok(())
}
