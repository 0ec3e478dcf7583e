//! Hot images that commands have missed: a process in the background creates them after the command has ended.
//!
//! A server creates them itself. A command that runs once must not wait for one, but the next one should find it.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use fumehood_engine::{Config, Engine, MissingHotImage, TemplateUse, close_fds_except};

use super::super::runtime::start_runtime;
use super::find_store;
use crate::args::{HostArgs, MissingImageArgs};

/// How long the process in the background may take: an image takes some 5 s.
const DEADLINE: Duration = Duration::from_secs(60);

/// The amount added to the niceness of the background process.
const NICENESS: i32 = 10;

/// Starts a process that creates the hot images that VMs of this engine have missed, and does not wait for it. Call this
/// when nothing else is left to do. A failure is only logged: the command itself has succeeded.
pub(crate) fn build_in_background(engine: &Engine, host: &HostArgs) {
    // The next command asks for the others.
    if let Some(missing) = engine.missing_hot_images().first()
        && let Err(error) = start(missing, host)
    {
        tracing::debug!(%error, "cannot create a hot image in the background");
    }
}

fn start(missing: &MissingHotImage, host: &HostArgs) -> anyhow::Result<()> {
    // What this process has inherited, such as a lock or a pipe, must not stay open.
    close_fds_except(&[])?;
    Command::new(std::env::current_exe()?)
        .args(host.to_arguments()?)
        .args(["template", "build-missing"])
        .arg(serde_json::to_string(missing)?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(())
}

/// The process in the background: creates one image, unless another such process is at work.
pub(super) fn build(args: &MissingImageArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    // The terminal's signals are for the command. A shell that calls this directly leads a session already.
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(NICENESS);

    let missing = serde_json::from_str(&args.missing).context("not a missing hot image")?;
    let store = find_store(host)?;
    let Some(_lock) = store.hot_images().lock_builder()? else {
        return Ok(ExitCode::SUCCESS);
    };

    let config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    let runtime = start_runtime()?;
    let built = runtime.block_on(async {
        let engine = Engine::start(config)?;
        let build = engine.build_hot_image(&missing);
        Ok::<_, anyhow::Error>(tokio::time::timeout(DEADLINE, build).await??)
    });

    // QEMU ends with this process.
    runtime.shutdown_background();
    built?;
    Ok(ExitCode::SUCCESS)
}
