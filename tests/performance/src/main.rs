//! Times runs beside floors measured in the same run.
//!
//! Two floors are measured in turn with what stands on them, so that a machine that grows slower slows
//! both: a bare boot of our kernel to a first process that does nothing else, and a bare restore of a
//! guest of seventeen bytes ([`floor`]).

mod density;
mod floor;
mod network;
mod packages;
mod programs;
mod series;
mod sessions;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::{
    Config, Engine, Event, Language, Outcome, Pool, Qemu, RunRequest, Sandbox, TemplateUse,
    VmOrigin,
};
use serde_json::Value;

use floor::Floor;
use programs::{HELLO, TYPICAL};
use series::Series;

const PYTHON: Language = Language::Python;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(20), |n| n.parse::<u32>())?
        .max(1);
    let program =
        PathBuf::from(std::env::var_os("FUMEHOOD_BIN").context("run me by `cargo xtask bench`")?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let engine = engine(0, 0, &[])?;
        println!(
            "accelerator {} ({}); {rounds} rounds",
            engine.accelerator(),
            engine.accelerator_reason()
        );
        for language in Language::ALL {
            engine
                .build_template(language, RunRequest::DEFAULT_MEMORY_MIB)
                .await?;
        }
        Series::heads();
        for part in Part::ALL.into_iter().filter(|part| part.is_asked_for()) {
            part.measure(&engine, &program, rounds).await?;
        }
        Ok(())
    })
}

/// A part of the measurements. Those that are named by further arguments are made; none named = all.
#[derive(Clone, Copy)]
enum Part {
    Restores,
    Hot,
    Kept,
    Sessions,
    Network,
    Packages,
    Many,
    Forks,
    Boots,
    Density,
    Blocks,
}

impl Part {
    const ALL: [Self; 11] = [
        Self::Restores,
        Self::Hot,
        Self::Kept,
        Self::Sessions,
        Self::Network,
        Self::Packages,
        Self::Many,
        Self::Forks,
        Self::Boots,
        Self::Density,
        Self::Blocks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restores => "restores",
            Self::Hot => "hot",
            Self::Kept => "kept",
            Self::Sessions => "sessions",
            Self::Network => "network",
            Self::Packages => "packages",
            Self::Many => "many",
            Self::Forks => "forks",
            Self::Boots => "boots",
            Self::Density => "density",
            Self::Blocks => "blocks",
        }
    }

    fn is_asked_for(self) -> bool {
        let mut names = std::env::args().skip(2).peekable();
        names.peek().is_none() || names.any(|name| name == self.name())
    }

    async fn measure(self, engine: &Engine, program: &Path, rounds: u32) -> anyhow::Result<()> {
        match self {
            Self::Restores => {
                let floor = Floor::new(&Qemu::find(&Config::default())?.program).await?;
                restores(engine, &floor, rounds).await
            }
            Self::Hot => hot(rounds).await,
            Self::Kept => kept(engine).await,
            Self::Sessions => sessions::measure(engine, rounds).await,
            Self::Network => network::measure(engine, rounds).await,
            Self::Packages => packages::measure(engine, rounds).await,
            Self::Many => many(engine, rounds).await,
            Self::Forks => forks(engine, rounds).await,
            Self::Boots => boots(engine, program, rounds).await,
            Self::Density => density::print(engine).await,
            Self::Blocks => density::translated(engine).await,
        }
    }
}

/// An engine with this many hot and blank VMs of these languages.
fn engine(hot: usize, standby: usize, languages: &[Language]) -> anyhow::Result<Engine> {
    let pool = Pool {
        warm_vms: hot,
        standby_processes: standby,
        languages: languages.to_vec(),
        ..Pool::default()
    };
    Ok(Engine::start(Config {
        templates: TemplateUse::Use,
        pool,
        ..Config::default()
    })?)
}

/// Runs a program; how long the first byte of its output took, the whole, and the outcome.
async fn run(
    engine: &Engine,
    language: Language,
    code: &str,
) -> anyhow::Result<(Duration, Duration, Outcome)> {
    let start = Instant::now();
    let mut run = engine.run(RunRequest::new(language, code).timeout_s(120))?;
    let mut first = None;
    while let Some(event) = run.next().await {
        if let Event::Stdout(_) = event {
            first.get_or_insert_with(|| start.elapsed());
        }
    }
    let outcome = run.outcome().await?;
    ensure!(outcome.exit_code == Some(0), "the run failed: {outcome:?}");
    let first = first.context("the program printed nothing")?;
    Ok((first, start.elapsed(), outcome))
}

/// Waits until the pool is full.
async fn filled(engine: &Engine, wanted: (usize, usize)) -> anyhow::Result<()> {
    let start = Instant::now();
    let is_full = || {
        let status = engine.pool_status();
        (status.warm, status.standby) == wanted
    };
    while !is_full() {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "the pool does not fill"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // What the last one's start left to do is not to be measured.
    tokio::time::sleep(Duration::from_millis(30)).await;
    Ok(())
}

/// First output from a template: with a QEMU started for it, and with one that waited.
async fn restores(engine: &Engine, floor: &Floor, rounds: u32) -> anyhow::Result<()> {
    let pooled = self::engine(0, 1, &Language::ALL)?;
    let mut floor_new = Series::new("floor: bare restore, new QEMU");
    let mut floor_blank = Series::new("floor: bare restore, QEMU that waits");
    let mut of_new = [
        Series::to_reach("template: python, first byte, new QEMU", 100.0),
        Series::to_reach("template: javascript", 100.0),
        Series::to_reach("template: shell", 90.0),
    ];
    let mut of_blank = [
        Series::to_reach("blank: python, first byte, QEMU that waits", 70.0),
        Series::new("blank: javascript"),
        Series::new("blank: shell"),
    ];
    for _ in 0..rounds {
        let (new, blank) = floor.restore().await?;
        floor_new.add(new);
        floor_blank.add(blank);
        for (at, language) in Language::ALL.into_iter().enumerate() {
            let (first, _, outcome) = run(engine, language, HELLO[at]).await?;
            ensure!(outcome.source == VmOrigin::Template, "{outcome:?}");
            of_new[at].add(first);
            filled(&pooled, (0, 1)).await?;
            let (first, _, outcome) = run(&pooled, language, HELLO[at]).await?;
            ensure!(outcome.source == VmOrigin::Standby, "{outcome:?}");
            of_blank[at].add(first);
        }
    }
    floor_new.print(None);
    of_new
        .iter()
        .for_each(|series| series.print(Some(&floor_new)));
    floor_blank.print(None);
    of_blank
        .iter()
        .for_each(|series| series.print(Some(&floor_blank)));
    Ok(())
}

/// First output from a hot VM.
async fn hot(rounds: u32) -> anyhow::Result<()> {
    let engine = engine(1, 0, &[PYTHON])?;
    let mut hello = Series::to_reach("hot: python hello, first byte", 6.0);
    let mut typical = Series::to_reach("hot: python, ten lines that the primer never ran", 40.0);
    for round in 0..rounds {
        for (series, code) in [
            (&mut hello, HELLO[0]),
            (&mut typical, TYPICAL[round as usize % TYPICAL.len()]),
        ] {
            filled(&engine, (1, 0)).await?;
            let (first, _, outcome) = run(&engine, PYTHON, code).await?;
            ensure!(outcome.source == VmOrigin::Hot, "{outcome:?}");
            series.add(first);
        }
    }
    hello.print(None);
    typical.print(None);
    Ok(())
}

/// An exec in a context: its time from request to outcome.
async fn exec(sandbox: &Sandbox, code: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let outcome = sandbox
        .run(&RunRequest::new(PYTHON, code).context("main").timeout_s(120))?
        .outcome()
        .await?;
    ensure!(outcome.exit_code == Some(0), "an exec failed: {outcome:?}");
    Ok(start.elapsed())
}

/// Later execs in a sandbox that is kept.
async fn kept(engine: &Engine) -> anyhow::Result<()> {
    const WARM_UP: usize = 100;
    const EXECS: usize = 500;
    let sandbox = engine
        .sandbox()
        .language(PYTHON)
        .memory_mib(RunRequest::DEFAULT_MEMORY_MIB)
        .await?;
    let mut series = Series::to_reach("kept sandbox: later exec in a context", 2.0).and_p99(6.0);
    for n in 0..WARM_UP + EXECS {
        let took = exec(&sandbox, &format!("print({n})")).await?;
        if n >= WARM_UP {
            series.add(took);
        }
    }
    series.print(None);
    sandbox.end().await;
    Ok(())
}

/// Ten runs at once.
async fn many(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    const AT_ONCE: usize = 10;
    let mut series = Series::to_reach("template: ten python hellos at once, all done", 700.0);
    for _ in 0..rounds {
        let start = Instant::now();
        let mut runs = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let engine = engine.clone();
            runs.spawn(async move { self::run(&engine, PYTHON, HELLO[0]).await });
        }
        while let Some(done) = runs.join_next().await {
            done??;
        }
        series.add(start.elapsed());
    }
    series.print(None);
    Ok(())
}

/// Forks of a live session.
async fn forks(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    let sandbox = engine
        .sandbox()
        .language(PYTHON)
        .memory_mib(RunRequest::DEFAULT_MEMORY_MIB)
        .await?;
    exec(&sandbox, "import json; state = list(range(100000))").await?;
    let mut one = Series::to_reach("fork: one child has answered an exec", 200.0);
    let mut ten = Series::to_reach("fork: ten children have answered", 1000.0);
    for round in 0..rounds.max(1) {
        // Ten of them are as much work as ten rounds.
        for (series, count) in [(&mut one, 1), (&mut ten, 10)] {
            if count == 10 && round % 5 != 0 {
                continue;
            }
            let start = Instant::now();
            let children = sandbox.fork(count).await?;
            let mut execs = tokio::task::JoinSet::new();
            for child in children {
                execs.spawn(async move {
                    exec(&child, "assert len(state) == 100000").await?;
                    anyhow::Ok(child)
                });
            }
            let mut done = Vec::new();
            while let Some(child) = execs.join_next().await {
                done.push(child??);
            }
            series.add(start.elapsed());
        }
    }
    one.print(None);
    ten.print(None);
    sandbox.end().await;
    Ok(())
}

/// Runs of the command, booted and restored.
async fn boots(engine: &Engine, program: &Path, rounds: u32) -> anyhow::Result<()> {
    let init = std::fs::read("target/x86_64-unknown-linux-gnu/guest/fumehood-floor-init")?;
    let mut floor = Series::new("floor: bare boot to init");
    let mut boot = Series::new("boot: QEMU started to agent's word");
    let mut python = Series::to_reach("boot: python, first output", 1200.0);
    let mut command = Series::new("template: python, whole command, outside view");
    let mut own = Series::new("own: whole command with a QEMU that ends at once");
    let mut teardown = Series::new("teardown");
    for _ in 0..rounds.div_ceil(2) {
        floor.add(engine.floor(&init).await?);
        let (outcome, _) = command_run(program, &["--boot"], "boot")?;
        boot.add(field(&outcome, "start_ms")?);
        let parts = ["start_ms", "connect_ms", "first_output_ms"];
        let parts = parts.map(|name| field(&outcome, name));
        python.add(parts.into_iter().sum::<anyhow::Result<Duration>>()?);
        let (outcome, whole) = command_run(program, &[], "template")?;
        teardown.add(field(&outcome, "teardown_ms")?);
        command.add(whole);
        own.add(nothing(program)?);
    }
    floor.print(None);
    boot.print(Some(&floor));
    python.print(Some(&floor));
    for series in [&command, &teardown, &own] {
        series.print(None);
    }
    let over = (python.median() - floor.median()) * 1000.0;
    println!("booted python's first output is {over:.0} ms above the floor (limit 600)");
    Ok(())
}

fn field(outcome: &Value, name: &str) -> anyhow::Result<Duration> {
    let ms = outcome["timing"][name].as_f64();
    let ms = ms.with_context(|| format!("no {name} in {outcome}"))?;
    Ok(Duration::from_secs_f64(ms / 1000.0))
}

/// One run of the command, and how long it took from outside.
fn command_run(
    program: &Path,
    options: &[&str],
    source: &str,
) -> anyhow::Result<(Value, Duration)> {
    let start = Instant::now();
    let output = Command::new(program)
        .args(["run", "--json", "-l", "python", "-c", HELLO[0]])
        .args(options)
        .output()?;
    let took = start.elapsed();
    let outcome: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        outcome["stdout"] == "hello\n" && outcome["source"] == source,
        "the run failed: {outcome}"
    );
    Ok((outcome, took))
}

/// All that a run spends outside QEMU.
fn nothing(program: &Path) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut command = Command::new(program);
    command
        .args(["--qemu", "/bin/true", "run", "-l", "shell", "-c", "1"])
        .stderr(Stdio::null());
    ensure!(
        command.status()?.code() == Some(125),
        "a run without QEMU did not fail"
    );
    Ok(start.elapsed())
}
