use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fumehood_engine::image::{
    BuildOptions, BuildOutcome, ImageName, ImageSummary, KernelChoice, PartReport, PartState,
    Progress, Step, StepEnd, Store, build,
};
use fumehood_engine::{LAUNCHER_BIN, RunRequest, install_launcher};
use indicatif::{ProgressBar, ProgressStyle};

use super::{say, template};
use crate::args::{Host, Image, ImageBuild, ImageCommand, Kernel, TemplateBuild};
use crate::exit::FAILURE;

pub(crate) fn run(args: Image, host: &Host) -> anyhow::Result<ExitCode> {
    let config = host.config();
    let root = match config.store {
        Some(root) => root,
        None => Store::default_root()?,
    };
    let store = Store::open(root)?;
    match args.command {
        ImageCommand::Build(args) => make(&store, args, host),
        ImageCommand::List => list(&store),
        ImageCommand::Verify => verify(&store, &config.image),
    }
}

fn make(store: &Store, args: ImageBuild, host: &Host) -> anyhow::Result<ExitCode> {
    let agent = match args.agent {
        Some(agent) => agent,
        None => beside_us("fumehood-agent", "--agent")?,
    };
    let launcher = host.config().launcher;
    let launcher = launcher.map_or_else(|| beside_us(LAUNCHER_BIN, "--launcher"), Ok)?;
    install_launcher(store, &launcher)?;
    let mut options = BuildOptions::new(agent);
    options.kernel = match args.kernel {
        Kernel::Own => KernelChoice::Own,
        Kernel::Debian => KernelChoice::Debian,
    };
    options.extra_ca = args.ca;
    options.refresh = args.refresh;
    let start = Instant::now();
    let mut shown = DisplayedValues::new();
    let report = build(store, &options, &mut shown)?;
    let took = start.elapsed().as_secs_f32();
    match report.outcome {
        BuildOutcome::Built => say(&format!(
            "built {} in {took:.1} s",
            report.image.directory().display()
        ))?,
        BuildOutcome::UpToDate => say(&format!(
            "up to date: {}",
            report.image.directory().display()
        ))?,
    }
    if args.no_templates {
        return Ok(ExitCode::SUCCESS);
    }
    let all = TemplateBuild {
        language: None,
        memory: RunRequest::DEFAULT_MEMORY_MIB,
        no_network: false,
    };
    template::make(&all, host.config())
}

fn beside_us(name: &str, option: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("this program's own path is not known")?;
    let program = here.with_file_name(name);
    if !program.is_file() {
        bail!(
            "{} is not there; `cargo xtask setup` builds it, or name one with {option}",
            program.display()
        );
    }
    Ok(program)
}

fn list(store: &Store) -> anyhow::Result<ExitCode> {
    let images = store.list()?;
    if images.is_empty() {
        say(&format!(
            "no images in {}; `fumehood image build` makes one",
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
            Ok(manifest) => {
                let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
                let (mib, suite) = (bytes / (1024 * 1024), manifest.suite);
                say(&format!("{name} {suite} {mib} MiB {}", directory.display()))?;
            }
            Err(error) => say(&format!("{name} BAD {error}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(store: &Store, name: &ImageName) -> anyhow::Result<ExitCode> {
    let verification = store.verify(name)?;
    for PartReport {
        name,
        path,
        expected,
        state,
    } in &verification.parts
    {
        match state {
            PartState::Intact => say(&format!("ok   {name} sha256 {expected}"))?,
            PartState::Damaged { found } => say(&format!(
                "BAD  {name} sha256 {found} instead of {expected}: {}",
                path.display()
            ))?,
            PartState::Unreadable { reason } => say(&format!(
                "BAD  {name} cannot be read ({reason}): {}",
                path.display()
            ))?,
        }
    }
    if verification.is_intact() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("fumehood: the image is damaged; `fumehood image build` makes it anew");
    Ok(ExitCode::from(FAILURE))
}

/// Shows how a build gets on: a moving line on a terminal, a line a step elsewhere.
struct DisplayedValues {
    bar: Option<ProgressBar>,
    said: Instant,
}

/// Where there is no terminal, a step that takes long says so this often.
const REMINDER: Duration = Duration::from_secs(30);

impl DisplayedValues {
    fn new() -> Self {
        Self {
            bar: None,
            said: Instant::now(),
        }
    }
}

impl Progress for DisplayedValues {
    fn started(&mut self, step: &Step) {
        let Step {
            index,
            total,
            title,
            usual,
        } = step;
        let text = format!("[{index}/{total}] {title} (usually {} s)", usual.as_secs());
        self.said = Instant::now();
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "{spinner} {prefix} {percent:>3}% {elapsed} {wide_msg}",
            );
            let bar = ProgressBar::new(1000).with_prefix(text);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        } else {
            eprintln!("{text}");
        }
    }

    fn done(&mut self, step: &Step, end: StepEnd, took: Duration) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let end = match end {
            StepEnd::Done => "done",
            StepEnd::Cached => "cached",
        };
        eprintln!(
            "[{}/{}] {}: {end} in {:.1} s",
            step.index,
            step.total,
            step.title,
            took.as_secs_f32()
        );
    }

    fn advanced(&mut self, step: &Step, fraction: Option<f64>, line: &str) {
        let per_mille = fraction.map(|fraction| (fraction * 1000.0) as u64);
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_owned());
            if let Some(per_mille) = per_mille {
                bar.set_position(per_mille);
            }
        } else if self.said.elapsed() >= REMINDER {
            self.said = Instant::now();
            let far = per_mille
                .map(|p| format!("{} %", p / 10))
                .unwrap_or_default();
            eprintln!(
                "[{}/{}] {}: {far} {line}",
                step.index, step.total, step.title
            );
        }
    }

    fn waiting(&mut self) {
        eprintln!("another build uses this store; waiting for its end");
    }
}
