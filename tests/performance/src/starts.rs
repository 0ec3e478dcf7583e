//! The start of VMs: from hot images and templates, by forks and by boots.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::{Engine, Language, VmOrigin};
use serde_json::Value;

use crate::floor::FloorGuest;
use crate::harness::{self, PYTHON, exec, run};
use crate::programs::{HELLO, TYPICAL};
use crate::series::{FloorSeries, Series};

/// The first process of the bare boot, as `cargo xtask bench` built it.
const FLOOR_INIT: &str = "target/x86_64-unknown-linux-gnu/guest/fumehood-floor-init";

/// How many workers start VMs one after another, as many as the reference machine has cores.
const WORKERS: u32 = 2;
/// How many VMs they start for each round.
const VMS_A_ROUND: u32 = 10;

/// Measures the first output of VMs restored from a template.
pub(crate) async fn restores(guest: &FloorGuest, rounds: u32) -> anyhow::Result<()> {
    let engine = harness::engine(false)?;
    let rows = [
        Series::with_target("template: python, first byte", 100.0),
        Series::with_target("template: javascript", 100.0),
        Series::with_target("template: shell", 90.0),
    ];
    first_outputs(&engine, VmOrigin::Template, rows, guest, rounds).await
}

/// Measures the first output of VMs that continue from hot images, the whole command, and how many VMs start in a second.
pub(crate) async fn images(
    engine: &Engine,
    program: &Path,
    guest: &FloorGuest,
    rounds: u32,
) -> anyhow::Result<()> {
    let rows = [
        Series::with_target("hot image: python, first byte", 12.0),
        Series::with_target("hot image: javascript", 22.0),
        Series::with_target("hot image: shell", 12.0),
    ];
    first_outputs(engine, VmOrigin::HotImage, rows, guest, rounds).await?;

    let mut floor = FloorSeries::new_qemu();
    let mut typical = Series::with_target("hot image: python, ten lines that never ran", 40.0);
    let mut command = Series::with_target("hot image: python, whole command, outside view", 30.0);
    let mut each = Series::with_target("hot image: fresh VMs in a row, two at once, each", 6.7);
    for round in 0..rounds {
        floor.add(guest.restore().await?);
        let code = TYPICAL[round as usize % TYPICAL.len()];
        typical.add(run(engine, PYTHON, code).await?.0);
        command.add(run_command(program, &[], "hot_image")?.1);
        each.add(run_in_a_row(engine).await?);
    }

    floor.print();
    for series in [&typical, &command, &each] {
        series.print_against(&floor);
    }
    println!(
        "fresh VMs a second: {:.0} (target 150)",
        1.0 / each.median()
    );
    Ok(())
}

/// Measures the first output of the smallest program of each language. Floors and runs take turns, so that both see the
/// same load.
async fn first_outputs(
    engine: &Engine,
    source: VmOrigin,
    mut rows: [Series; 3],
    guest: &FloorGuest,
    rounds: u32,
) -> anyhow::Result<()> {
    let mut floor = FloorSeries::new_qemu();
    for _ in 0..rounds {
        floor.add(guest.restore().await?);

        for (at, language) in Language::ALL.into_iter().enumerate() {
            let (first_output, outcome) = run(engine, language, HELLO[at]).await?;
            ensure!(outcome.source == source, "{outcome:?}");
            rows[at].add(first_output);
        }
    }

    floor.print();
    for series in &rows {
        series.print_against(&floor);
    }
    Ok(())
}

/// Starts VMs by several workers, each of them one after another, and runs a program in each to its end. Returns the
/// time for each VM.
async fn run_in_a_row(engine: &Engine) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let engine = engine.clone();
        workers.spawn(async move {
            for _ in 0..VMS_A_ROUND / WORKERS {
                run(&engine, PYTHON, HELLO[0]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(start.elapsed() / VMS_A_ROUND)
}

/// Measures ten concurrent runs.
pub(crate) async fn concurrent(
    engine: &Engine,
    guest: &FloorGuest,
    rounds: u32,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 10;

    let mut floor = FloorSeries::new_qemu();
    let mut series = Series::with_target("hot image: ten python hellos at once, all done", 130.0);
    for _ in 0..rounds {
        floor.add(guest.restore().await?);

        let start = Instant::now();
        let mut runs = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let engine = engine.clone();
            runs.spawn(async move { run(&engine, PYTHON, HELLO[0]).await });
        }
        while let Some(result) = runs.join_next().await {
            result??;
        }
        series.add(start.elapsed());
    }

    floor.print();
    series.print_against(&floor);
    Ok(())
}

/// Measures forks of a live session, until each child has answered an exec.
pub(crate) async fn forks(engine: &Engine, guest: &FloorGuest, rounds: u32) -> anyhow::Result<()> {
    let sandbox = harness::sandbox(engine, PYTHON).await?;
    exec(&sandbox, "import json; state = list(range(100000))").await?;

    let mut floor = FloorSeries::new_qemu();
    let mut one = Series::with_target("fork: one child has answered an exec", 60.0);
    let mut ten = Series::with_target("fork: ten children have answered", 250.0);
    for round in 0..rounds {
        floor.add(guest.restore().await?);

        for (series, count) in [(&mut one, 1), (&mut ten, 10)] {
            // Forking ten children is as much work as ten rounds, so it is done less often.
            if count == 10 && round % 5 != 0 {
                continue;
            }

            let start = Instant::now();
            let mut execs = tokio::task::JoinSet::new();
            for child in sandbox.fork(count).await? {
                execs.spawn(async move {
                    exec(&child, "assert len(state) == 100000").await?;
                    anyhow::Ok(child)
                });
            }

            // The children end after the measurement.
            let mut children = Vec::new();
            while let Some(child) = execs.join_next().await {
                children.push(child??);
            }
            series.add(start.elapsed());
        }
    }

    floor.print();
    one.print_against(&floor);
    ten.print_against(&floor);
    sandbox.end().await;
    Ok(())
}

/// Measures runs of the command, with booted and with restored VMs.
pub(crate) async fn boots(engine: &Engine, program: &Path, rounds: u32) -> anyhow::Result<()> {
    let init = std::fs::read(FLOOR_INIT).with_context(|| format!("cannot read {FLOOR_INIT}"))?;
    let mut floor = FloorSeries::bare_boot();
    let mut boot = Series::new("boot: from QEMU's start to the agent's answer");
    let mut python = Series::with_target("boot: python, first output", 1200.0);
    let mut command = Series::new("template: python, whole command, outside view");
    let mut overhead = Series::new("own: whole command with a QEMU that ends at once");
    let mut teardown = Series::new("teardown");

    for _ in 0..rounds.div_ceil(2) {
        floor.add(engine.floor(&init).await?);

        // With a boot.
        let (outcome, _) = run_command(program, &["--boot"], "boot")?;
        boot.add(timing(&outcome, "start_ms")?);
        let parts =
            ["start_ms", "connect_ms", "first_output_ms"].map(|name| timing(&outcome, name));
        python.add(parts.into_iter().sum::<anyhow::Result<Duration>>()?);

        // Restored from a template.
        let (outcome, whole) = run_command(program, &["--hot-images", "off"], "template")?;
        teardown.add(timing(&outcome, "teardown_ms")?);
        command.add(whole);
        overhead.add(run_command_without_qemu(program)?);
    }

    floor.print();
    boot.print_against(&floor);
    python.print_against(&floor);
    for series in [&command, &teardown, &overhead] {
        series.print();
    }

    let above_floor = (python.median() - floor.median()) * 1000.0;
    println!(
        "booted python's first output is {above_floor:.0} ms above the floor (600 on the reference machine)"
    );
    Ok(())
}

/// Returns a field of an outcome's timing.
fn timing(outcome: &Value, name: &str) -> anyhow::Result<Duration> {
    let ms = outcome["timing"][name]
        .as_f64()
        .with_context(|| format!("no {name} in {outcome}"))?;
    Ok(Duration::from_secs_f64(ms / 1000.0))
}

/// Runs the command once. Returns the outcome that it printed and its whole duration.
fn run_command(
    program: &Path,
    options: &[&str],
    source: &str,
) -> anyhow::Result<(Value, Duration)> {
    let start = Instant::now();
    let output = Command::new(program)
        .args(["run", "--json", "-l", "python", "-c", HELLO[0]])
        .args(options)
        .env("FUMEHOOD_NO_SERVER", "1")
        .output()?;
    let duration = start.elapsed();

    let outcome: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        outcome["stdout"] == "hello\n" && outcome["source"] == source,
        "the run failed: {outcome}"
    );

    Ok((outcome, duration))
}

/// Runs the command with a QEMU that ends at once. Returns the time that a run spends outside QEMU.
fn run_command_without_qemu(program: &Path) -> anyhow::Result<Duration> {
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
