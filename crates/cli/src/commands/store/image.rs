//! `fumehood image`: builds, lists and verifies guest images.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fumehood_engine::image::{
    BuildOptions, BuildOutcome, BuildReport, ImageName, ImageSummary, KernelChoice, PartReport,
    PartState, Store, TEMPLATES_BYTES, build, terminate_programs,
};
use fumehood_engine::{LAUNCHER_BIN, RunRequest, install_launcher};

use super::super::format::MIB;
use super::super::runtime::start_runtime;
use super::template::build_templates;
use super::{find_store, open_store};
use crate::args::{
    HostArgs, ImageArgs, ImageBuildArgs, ImageCommand, KernelArg, TemplateBuildArgs,
};
use crate::exit_code::{FAILURE, INTERRUPTED};
use crate::io::{BuildProgress, Interrupts, eprint_message, print_line};

/// How long an interrupted build may take to remove its work: up to 2.5 GB in many small files.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two requests to an interrupted build's programs to terminate.
const TERMINATE_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(args: ImageArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let config = host.config();
    let store = match args.command {
        ImageCommand::Prune => find_store(host)?,
        _ => open_store(host)?,
    };

    match args.command {
        ImageCommand::Build(args) => build_image(&store, args, host),
        ImageCommand::List => list(&store),
        ImageCommand::Verify => verify(&store, &config.image),
        ImageCommand::Prune => prune(&store),
    }
}

fn build_image(store: &Store, args: ImageBuildArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    // Everyone may read the files of a build, and only this user may change them, with any umask of the caller.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    // The agent goes into the image, the launcher into the store beside it.
    let agent = match args.agent {
        Some(agent) => agent,
        None => find_companion("fumehood-agent", "--agent")?,
    };
    let launcher = match host.config().launcher {
        Some(launcher) => launcher,
        None => find_companion(LAUNCHER_BIN, "--launcher")?,
    };
    install_launcher(store, &launcher)?;

    let mut options = BuildOptions::new(agent);
    options.kernel = match args.kernel {
        KernelArg::Own => KernelChoice::Own,
        KernelArg::Debian => KernelChoice::Debian,
    };
    options.extra_ca = args.ca;
    options.refresh = args.refresh;

    let start = Instant::now();
    let Some(report) = build_unless_interrupted(store, options)? else {
        eprint_message("interrupted; the unfinished work was removed");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let seconds = start.elapsed().as_secs_f32();

    let directory = report.image.directory().display();
    match report.outcome {
        // Nothing can use the hot images and the templates of the image that this one has replaced.
        BuildOutcome::Built => {
            print_line(&format!("built {directory} in {seconds:.1} s"))?;
            store.hot_images().remove_all()?;
        }
        BuildOutcome::UpToDate => print_line(&format!("up to date: {directory}"))?,
    }

    store.templates().prune_stale(TEMPLATES_BYTES, None)?;

    // Build the templates that `fumehood run` uses by default, so that the first run is fast.
    if args.no_templates {
        return Ok(ExitCode::SUCCESS);
    }
    let all_templates = TemplateBuildArgs {
        language: None,
        memory: RunRequest::DEFAULT_MEMORY_MIB,
        no_network: false,
    };
    build_templates(&all_templates, host.config())
}

/// Builds an image. Returns `None` if a signal has interrupted the build; its work is then removed. A second signal
/// ends this command at once, and the next one removes the work.
fn build_unless_interrupted(
    store: &Store,
    options: BuildOptions,
) -> anyhow::Result<Option<BuildReport>> {
    start_runtime()?.block_on(async {
        let mut interrupts = Interrupts::new()?;
        let store = store.clone();
        let mut building =
            tokio::task::spawn_blocking(move || build(&store, &options, &mut BuildProgress::new()));
        tokio::select! {
            built = &mut building => return Ok(Some(built??)),
            _ = interrupts.next() => {}
        }

        let deadline = Instant::now() + CLEANUP_TIMEOUT;
        while Instant::now() < deadline {
            terminate_programs();
            tokio::select! {
                _ = &mut building => return Ok(None),
                _ = interrupts.next() => break,
                () = tokio::time::sleep(TERMINATE_INTERVAL) => {}
            }
        }
        std::process::exit(INTERRUPTED.into())
    })
}

/// Returns the path of a binary that is installed next to this one. `option`: the option that names another path.
fn find_companion(name: &str, option: &str) -> anyhow::Result<PathBuf> {
    let this_binary =
        std::env::current_exe().context("cannot determine the path of this binary")?;
    let companion = this_binary.with_file_name(name);
    if !companion.is_file() {
        bail!(
            "{} does not exist; build it with `cargo xtask setup`, or give its path with {option}",
            companion.display()
        );
    }
    Ok(companion)
}

fn prune(store: &Store) -> anyhow::Result<ExitCode> {
    let unfinished = store.remove_leftovers()?;
    let mut stale = store.templates().prune_stale(TEMPLATES_BYTES, None)?;
    stale += store.hot_images().prune()?;
    print_line(&format!(
        "removed unfinished work of {} MiB, and {} templates and hot images of {} MiB",
        unfinished.freed_bytes / MIB,
        stale.removed,
        stale.freed_bytes / MIB
    ))?;

    // They are the only copies of sandboxes.
    let states: Vec<_> = store.saved_states().list()?.into_iter().flatten().collect();
    if !states.is_empty() {
        let bytes: u64 = states.iter().map(|state| state.disk_bytes).sum();
        let (count, mib) = (states.len(), bytes / MIB);
        print_line(&format!(
            "kept {count} saved states of sandboxes, {mib} MiB"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store) -> anyhow::Result<ExitCode> {
    let images = store.list()?;
    if images.is_empty() {
        print_line(&format!(
            "no images in {}; build one with `fumehood image build`",
            store.root().display()
        ))?;
    }

    for image in images {
        let ImageSummary {
            name,
            directory,
            manifest,
        } = image;
        match manifest {
            // The size is that of all parts: kernel, initrd and root file system.
            Ok(manifest) => {
                let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
                let (mib, suite) = (bytes / MIB, manifest.suite);
                print_line(&format!("{name} {suite} {mib} MiB {}", directory.display()))?;
            }
            Err(error) => print_line(&format!("{name} BAD {error}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(store: &Store, name: &ImageName) -> anyhow::Result<ExitCode> {
    let verification = store.verify(name)?;

    for part in &verification.parts {
        print_line(&part_line(part))?;
    }

    if verification.is_intact() {
        Ok(ExitCode::SUCCESS)
    } else {
        eprint_message("the image is damaged; rebuild it with `fumehood image build`");
        Ok(ExitCode::from(FAILURE))
    }
}

/// Returns the verification result of one part as a line.
fn part_line(part: &PartReport) -> String {
    let PartReport {
        name,
        path,
        expected,
        state,
    } = part;
    let path = path.display();

    match state {
        PartState::Intact => format!("ok   {name} sha256 {expected}"),
        PartState::Damaged { found } => {
            format!("BAD  {name} sha256 {found} instead of {expected}: {path}")
        }
        PartState::Unreadable { reason } => {
            format!("BAD  {name} cannot be read ({reason}): {path}")
        }
    }
}
