//! Runs this program again in namespaces of its own.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

use crate::neighbour::ADDRESS;
use crate::{cgroup, places};

/// Set inside: the directory of the run.
const INSIDE: &str = "FUMEHOOD_CHAOS_DIRECTORY";

/// Whether this program is inside already.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Returns the directory of the run, inside.
///
/// # Errors
/// Fails outside.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    let directory = std::env::var_os(INSIDE).context("not inside the namespaces")?;
    Ok(directory.into())
}

/// Returns the name of this run's cgroup and directory.
fn name(pid: u32) -> String {
    format!("fumehood-chaos-{pid}")
}

/// Runs this program inside, and removes what the run leaves unless it failed.
///
/// # Errors
/// Fails if the namespaces cannot be made.
pub(crate) fn enter() -> anyhow::Result<ExitCode> {
    let store = store()?;
    let name = name(std::process::id());
    // Beside the store, so that its files can be linked.
    let directory = store.with_file_name(&name);
    places::private_directory(&directory)?;

    let status = command(&directory)?
        .status()
        .context("setpriv, of util-linux")?;
    cgroup::remove(&name);
    if status.success() {
        fs::remove_dir_all(&directory)?;
    } else {
        // The store is large, and the logs are what a failure needs.
        let _ = fs::remove_dir_all(directory.join("data"));
        eprintln!("the logs are in {}", directory.display());
    }

    if let Some(signal) = status.signal() {
        eprintln!("ended by signal {signal}");
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Returns the command that runs this program inside. The first process of the namespace is a shell, which takes the
/// processes whose parents were killed. Everything inside ends with this process, however that ends.
fn command(directory: &std::path::Path) -> anyhow::Result<Command> {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--net",
        "--pid",
    ]);
    command.args([
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }

    command
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, directory)
        .stdin(Stdio::null());
    Ok(command)
}

/// Returns the store whose image and templates are used.
///
/// # Errors
/// Fails if this user has none.
pub(crate) fn store() -> anyhow::Result<PathBuf> {
    if let Some(store) = std::env::var_os("FUMEHOOD_HOME") {
        return Ok(store.into());
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let data = data
        .or(home)
        .context("neither HOME nor XDG_DATA_HOME is set")?;
    Ok(data.join("fumehood"))
}

/// Prepares the namespaces: the network's address, and an empty directory for shared memory.
///
/// # Errors
/// Fails if a command fails.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let commands = [
        "ip link set lo up".to_owned(),
        format!("ip addr add {ADDRESS}/32 dev lo"),
        "mount -t tmpfs chaos /dev/shm".to_owned(),
    ];
    for line in commands {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        let status = Command::new(program).args(words).status();
        ensure!(status.context(line.clone())?.success(), "`{line}` failed");
    }
    Ok(())
}

/// Returns the name of this run's cgroup, inside.
///
/// # Errors
/// Fails outside.
pub(crate) fn cgroup_name() -> anyhow::Result<String> {
    let directory = directory()?;
    let name = directory.file_name().and_then(|name| name.to_str());
    Ok(name.context("the directory has no name")?.to_owned())
}
