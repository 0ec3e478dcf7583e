//! Times runs beside a floor measured in the same run.
//!
//! The floor is a bare QEMU with the same kernel, machine and command line, from its start to the
//! first byte of a first process that does nothing else. Pairs are measured in turn, so that a
//! machine that grows slower slows both.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use fumehood_engine::{Config, Engine};
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(10), |n| n.parse::<u32>())?
        .max(1);
    let program =
        PathBuf::from(std::env::var_os("FUMEHOOD_BIN").context("run me by `cargo xtask bench`")?);
    let init = Path::new("target/x86_64-unknown-linux-gnu/guest/fumehood-floor-init");
    let engine = Engine::start(Config::default())?;
    println!(
        "accelerator {} ({}); {rounds} rounds, milliseconds",
        engine.accelerator(),
        engine.accelerator_reason()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut floor = Series::new("floor: bare boot to init");
    let mut boot = Series::new("boot: QEMU started to agent's greeting");
    let mut python = Series::new("python: QEMU started to first output");
    let mut command = Series::new("python: whole command, outside view");
    let mut own = Series::new("own: whole command with a QEMU that ends at once");
    let mut teardown = Series::new("teardown");
    for _ in 0..rounds {
        floor.add(runtime.block_on(engine.floor(&std::fs::read(init)?))?);
        let (outcome, whole) = run(&program)?;
        let field = |name: &str| {
            let ms = outcome["timing"][name]
                .as_f64()
                .with_context(|| format!("no {name} in {outcome}"))?;
            anyhow::Ok(Duration::from_secs_f64(ms / 1000.0))
        };
        boot.add(field("boot_ms")?);
        python.add(field("boot_ms")? + field("connect_ms")? + field("first_output_ms")?);
        teardown.add(field("teardown_ms")?);
        command.add(whole);
        own.add(nothing(&program)?);
    }
    for series in [&floor, &boot, &python, &command, &teardown, &own] {
        series.print();
    }
    let over = python.median() - floor.median();
    println!(
        "python's first output: {:.2} times the floor, {:.0} ms above it (limit 600); {:.0} ms in all (limit 1200)",
        python.median() / floor.median(),
        over * 1000.0,
        python.median() * 1000.0
    );
    Ok(())
}

/// One run of the command, and how long it took from outside.
fn run(program: &Path) -> anyhow::Result<(Value, Duration)> {
    let start = std::time::Instant::now();
    let output = Command::new(program)
        .args(["run", "--json", "-l", "python", "-c", "print('hello')"])
        .output()?;
    let took = start.elapsed();
    let outcome: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(outcome["stdout"] == "hello\n", "the run failed: {outcome}");
    Ok((outcome, took))
}

/// All that a run spends outside QEMU.
fn nothing(program: &Path) -> anyhow::Result<Duration> {
    let start = std::time::Instant::now();
    let mut command = Command::new(program);
    command
        .args(["--qemu", "/bin/true", "run", "-l", "raw", "-c", "1"])
        .stderr(Stdio::null());
    ensure!(
        command.status()?.code() == Some(125),
        "a run without QEMU did not fail"
    );
    Ok(start.elapsed())
}

/// Times of one thing, in seconds.
struct Series {
    name: &'static str,
    seconds: Vec<f64>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            seconds: Vec::new(),
        }
    }

    fn add(&mut self, time: Duration) {
        self.seconds.push(time.as_secs_f64());
        self.seconds.sort_by(f64::total_cmp);
    }

    /// The value below which this share of the times lies.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.seconds.len() - 1;
        self.seconds[((last as f64) * share).round() as usize]
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn print(&self) {
        let [least, median, most] = [0.0, 0.5, 1.0].map(|share| self.quantile(share) * 1000.0);
        println!(
            "{:<50} median {median:7.1}   least {least:7.1}   most {most:7.1}",
            self.name
        );
    }
}
