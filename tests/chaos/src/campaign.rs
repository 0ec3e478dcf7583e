//! One run: faults in a random order until the time is over.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustix::process::Signal;
use serde_json::json;

use crate::cgroup::OwnCgroup;
use crate::fault::{Fault, Needs};
use crate::leaks::Floor;
use crate::neighbour::Neighbour;
use crate::places::{Places, link_tree, private_directory};
use crate::random::Random;
use crate::report::Report;
use crate::work::CommandJob;
use crate::world::{Server, World, tail};
use crate::{namespaces, table};

/// What to inject.
#[derive(Debug, Parser)]
#[command(name = "fumehood-chaos")]
pub(crate) struct Options {
    /// Determines the faults and their times; random without it
    #[arg(long)]
    seed: Option<u64>,

    /// End after this many minutes
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,

    /// End after this many faults
    #[arg(long)]
    faults: Option<usize>,

    /// Inject only this fault; may be repeated
    #[arg(long, value_name = "FAULT")]
    only: Vec<String>,

    /// Write the table of results into this page of the documentation
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// List the faults
    #[arg(long)]
    pub(crate) list: bool,
}

/// Small runs before the floor is measured: the first ones make the server allocate what it keeps.
const WARM_UP_RUNS: usize = 3;

/// Everything that a run has.
struct Campaign {
    seed: u64,
    world: World,
    server: Server,
    witness: Witness,
    neighbour: Neighbour,
    floor: Floor,
    cgroup: OwnCgroup,
}

/// Injects faults, and returns whether all promises were kept.
///
/// # Errors
/// Fails if the world cannot be made, or does not recover.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let faults = select(&options.only)?;
    let seed = options.seed.unwrap_or_else(random_seed);
    println!("seed {seed}");

    let mut campaign = Campaign::prepare(seed)?;
    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let mut report = Report::new(seed);
    let mut order = Order::new(seed, faults, !options.only.is_empty());

    while Instant::now() < end && options.faults.is_none_or(|most| report.injected() < most) {
        let (fault, occurrence) = order.next();
        if let Some(reason) = missing(fault.needs) {
            report.skip(fault, reason);
            if report.all_skipped(order.faults.len()) {
                bail!("no fault can be injected here: {reason}");
            }
            continue;
        }

        let start = Instant::now();
        let result = campaign.inject(fault, occurrence);
        let is_lost = result.is_err();
        report.add(fault, occurrence, start.elapsed(), result);
        if is_lost {
            campaign.restart().context("after a failure")?;
        }
    }

    report.print_summary(&campaign.neighbour.done());
    if let Some(page) = &options.report {
        report.write(page, &campaign.neighbour.done())?;
    }
    Ok(report.exit_code())
}

/// Returns the faults of these names, or all.
///
/// # Errors
/// Fails if a name is unknown.
fn select(names: &[String]) -> anyhow::Result<Vec<Fault>> {
    let mut faults = table::all();
    for name in names {
        ensure!(
            faults.iter().any(|fault| fault.name == name),
            "unknown fault `{name}`; `--list` lists them"
        );
    }
    if !names.is_empty() {
        faults.retain(|fault| names.iter().any(|name| name == fault.name));
    }
    Ok(faults)
}

/// Links the templates of the size that runs have by default. A store may have many others.
///
/// # Errors
/// Fails if one cannot be linked.
fn link_templates(from: &Path, to: &Path) -> anyhow::Result<()> {
    const BYTES: u64 = 512 << 20;
    private_directory(to)?;
    for entry in std::fs::read_dir(from).context("the templates")?.flatten() {
        let ram = std::fs::metadata(entry.path().join("ram"));
        if ram.is_ok_and(|ram| ram.len() == BYTES) {
            link_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Creates the hot images of all templates, so that none is created while a fault is injected.
///
/// # Errors
/// Fails if one cannot be created.
fn build_hot_images(world: &World) -> anyhow::Result<()> {
    private_directory(&world.places.store.join("hot-images"))?;
    let job = CommandJob::start(world, &["template", "build"], false)?;
    let ended = job.finish(world.deadline(240))?;
    ensure!(ended.exit == Some(0), "building hot images: {ended:?}");
    Ok(())
}

fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64 % 1_000_000_007)
}

/// Returns what is missing here for a fault.
fn missing(needs: Needs) -> Option<&'static str> {
    match needs {
        Needs::Nothing => None,
        Needs::Root => {
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let is_whole = map.split_ascii_whitespace().nth(2) == Some("4294967295");
            (!is_whole).then_some("needs root")
        }
    }
}

/// All faults in a random order, then all of them in another one.
struct Order {
    random: Random,
    faults: Vec<Fault>,
    left: Vec<usize>,
    round: u64,
    /// Whether slow faults are in each round.
    is_selection: bool,
}

/// Slow faults are in the last of this many rounds, so that a short run has none.
const SLOW_EVERY: u64 = 4;

impl Order {
    fn new(seed: u64, faults: Vec<Fault>, is_selection: bool) -> Self {
        Self {
            random: Random::new(seed),
            faults,
            left: Vec::new(),
            round: 0,
            is_selection,
        }
    }

    /// Returns the next fault, and how often it was returned before.
    fn next(&mut self) -> (&Fault, u64) {
        if self.left.is_empty() {
            let has_slow = self.is_selection || self.round % SLOW_EVERY == SLOW_EVERY - 1;
            self.left = (0..self.faults.len())
                .filter(|&at| has_slow || !self.faults[at].is_slow)
                .collect();
            self.random.shuffle(&mut self.left);
            self.round += 1;
        }
        let at = self.left.pop().unwrap_or(0);
        (&self.faults[at], self.round - 1)
    }
}

impl Campaign {
    fn prepare(seed: u64) -> anyhow::Result<Self> {
        namespaces::prepare()?;
        let cgroup = OwnCgroup::enter(&namespaces::cgroup_name()?);
        let root = namespaces::directory()?;
        let program = std::env::var_os("FUMEHOOD_BIN");
        let program = program.context("FUMEHOOD_BIN is not set: run `cargo xtask chaos`")?;

        // Only what runs need: no layer and no cache of the image build.
        let (from, store) = (namespaces::store()?, root.join("data/fumehood"));
        private_directory(&store)?;
        link_tree(&from.join("images"), &store.join("images")).context("the store")?;
        link_templates(&from.join("templates"), &store.join("templates"))?;

        let places = |name: &str| Places::make(root.join(name), store.clone());
        let neighbour = World::new(program.clone().into(), places("neighbour")?);
        let mut world = World::new(program.into(), places("struck")?);
        build_hot_images(&world)?;
        let neighbour = Neighbour::start(neighbour, seed)?;

        let server = Server::start(&world, &[])?;
        let witness = Witness::start(&world)?;
        for _ in 0..WARM_UP_RUNS {
            world.check_run()?;
        }
        let quiet = neighbour.pause();
        let floor = Floor::measure(&world, &server);
        drop(quiet);

        Ok(Self {
            seed,
            world,
            server,
            witness,
            neighbour,
            floor,
            cgroup,
        })
    }

    /// Injects one fault, and checks all promises.
    fn inject(&mut self, fault: &Fault, occurrence: u64) -> anyhow::Result<()> {
        let random = Random::of_fault(self.seed, fault.name, occurrence);
        let result = fault.run(&self.world, &mut self.server, random);
        let result = result.with_context(|| {
            let log = tail(&self.world.places.log);
            format!("the server's log ends:\n{log}\n")
        });

        let after = if fault.ends_server {
            self.restart()
        } else {
            self.check_server()
        };
        let neighbours = self.neighbour.failures();
        let leaks = self.check_leaks();

        // The fault's own failure explains the others.
        result.and(after).and(leaks)?;
        ensure!(neighbours.is_empty(), "{}", neighbours.join("; "));
        Ok(())
    }

    /// Checks that the server works, and that its other sandbox noticed nothing.
    fn check_server(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.server.is_alive(),
            "the server has ended:\n{}",
            tail(&self.world.places.log)
        );
        self.witness.check(&self.world)?;
        self.world.check_run()
    }

    fn check_leaks(&self) -> anyhow::Result<()> {
        let _quiet = self.neighbour.pause();
        let known = [self.neighbour.server()];
        self.floor
            .wait(&self.world, &self.server, &known, &self.cgroup)
    }

    /// Ends the server if it has not ended, and starts another one with the same state.
    fn restart(&mut self) -> anyhow::Result<()> {
        let world = &self.world;
        if self.server.is_alive() {
            let ended = self.server.end(world, Signal::TERM);
            ended.or_else(|_| self.server.end(world, Signal::KILL))?;
        }
        self.server = Server::start(world, &[]).context("the next server")?;
        self.witness = Witness::start(world)?;

        for _ in 0..WARM_UP_RUNS {
            self.world.check_run()?;
        }
        let _quiet = self.neighbour.pause();
        self.floor = self.floor.of_server(&self.world, &self.server);
        Ok(())
    }
}

/// A sandbox of the server that no fault strikes. It counts.
struct Witness {
    path: String,
    count: u64,
}

impl Witness {
    fn start(world: &World) -> anyhow::Result<Self> {
        let body = json!({"language": "python", "idle_timeout_s": 3600, "max_lifetime_s": 36000});
        let sandbox = world.expect("POST", "/v1/sandboxes", &body, 201)?;
        let id = sandbox["id"].as_str().context("a sandbox without an id")?;
        let mut witness = Self {
            path: format!("/v1/sandboxes/{id}"),
            count: 0,
        };
        witness.check(world)?;
        Ok(witness)
    }

    fn check(&mut self, world: &World) -> anyhow::Result<()> {
        self.count += 1;
        let body = json!({
            "language": "python", "context": "main",
            "code": "n = globals().get('n', 0) + 1; print(n)",
        });
        let run = world.expect("POST", &format!("{}/runs", self.path), &body, 200)?;
        let is_right = run["stdout"] == format!("{}\n", self.count);
        ensure!(is_right, "another sandbox, at {}: {run}", self.count);
        Ok(())
    }
}
