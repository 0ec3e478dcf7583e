//! The start of VMs: from templates, from the pool, by forks and by boots.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::{Engine, Language, VmOrigin};
use serde_json::Value;

use crate::floor::FloorGuest;
use crate::harness::{self, PYTHON, exec, run, wait_for_pool};
use crate::programs::{HELLO, TYPICAL};
use crate::series::{FloorSeries, Series};

/// The first process of the bare boot, as `cargo xtask bench` built it.
const FLOOR_INIT: &str = "target/x86_64-unknown-linux-gnu/guest/fumehood-floor-init";

/// Measures the first output of VMs restored from a template, with a new and with a waiting QEMU.
pub(crate) async fn restores(
    engine: &Engine,
    guest: &FloorGuest,
    rounds: u32,
) -> anyhow::Result<()> {
    let pooled = harness::engine(0, 1, &Language::ALL)?;
    let mut floor_new = FloorSeries::new_qemu();
    let mut floor_waiting = FloorSeries::waiting_qemu();
    let mut from_new = [
        Series::with_target("template: python, first byte, new QEMU", 100.0),
        Series::with_target("template: javascript", 100.0),
        Series::with_target("template: shell", 90.0),
    ];
    let mut from_waiting = [
        Series::with_target("standby: python, first byte, waiting QEMU", 70.0),
        Series::new("standby: javascript"),
        Series::new("standby: shell"),
    ];

    // Floors and runs take turns, so that both see the same load.
    for _ in 0..rounds {
        let floor = guest.restore().await?;
        floor_new.add(floor.total);
        floor_waiting.add(floor.from_waiting);

        for (at, language) in Language::ALL.into_iter().enumerate() {
            let (first_output, outcome) = run(engine, language, HELLO[at]).await?;
            ensure!(outcome.source == VmOrigin::Template, "{outcome:?}");
            from_new[at].add(first_output);

            wait_for_pool(&pooled, (0, 1)).await?;
            let (first_output, outcome) = run(&pooled, language, HELLO[at]).await?;
            ensure!(outcome.source == VmOrigin::Standby, "{outcome:?}");
            from_waiting[at].add(first_output);
        }
    }

    floor_new.print();
    for series in &from_new {
        series.print_against(&floor_new);
    }
    floor_waiting.print();
    for series in &from_waiting {
        series.print_against(&floor_waiting);
    }
    Ok(())
}

/// Measures the first output of hot VMs.
pub(crate) async fn hot(rounds: u32) -> anyhow::Result<()> {
    let engine = harness::engine(1, 0, &[PYTHON])?;
    let mut hello = Series::with_target("hot: python hello, first byte", 6.0);
    let mut typical = Series::with_target("hot: python, ten lines that the primer never ran", 40.0);

    for round in 0..rounds {
        let typical_code = TYPICAL[round as usize % TYPICAL.len()];
        for (series, code) in [(&mut hello, HELLO[0]), (&mut typical, typical_code)] {
            wait_for_pool(&engine, (1, 0)).await?;
            let (first_output, outcome) = run(&engine, PYTHON, code).await?;
            ensure!(outcome.source == VmOrigin::Hot, "{outcome:?}");
            series.add(first_output);
        }
    }

    hello.print();
    typical.print();
    Ok(())
}

/// Measures ten concurrent runs.
pub(crate) async fn concurrent(
    engine: &Engine,
    guest: &FloorGuest,
    rounds: u32,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 10;

    let mut floor = FloorSeries::new_qemu();
    let mut series = Series::with_target("template: ten python hellos at once, all done", 700.0);
    for _ in 0..rounds {
        floor.add(guest.restore().await?.total);

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
    let mut one = Series::with_target("fork: one child has answered an exec", 200.0);
    let mut ten = Series::with_target("fork: ten children have answered", 1000.0);
    for round in 0..rounds {
        floor.add(guest.restore().await?.total);

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
        let (outcome, whole) = run_command(program, &[], "template")?;
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
