//! Many VMs that have run a program and wait for the next one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use fumehood_engine::{Engine, Outcome, RunRequest, Sandbox, VmOrigin, raise_descriptor_limit};
use tokio::task::JoinSet;

use crate::density::{ProcessorTime, memory};
use crate::harness::{self, PYTHON};
use crate::programs::HELLO;

/// How long the processor time of idle VMs is measured.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// How long the VMs rest before: a guest finishes its last work, such as the next interpreter's start.
const REST_TIME: Duration = Duration::from_secs(10);

/// Memory that must be free in an engine for another VM, in MiB.
const FREE_MIB: u32 = 2 * RunRequest::DEFAULT_MEMORY_MIB;

/// How many VMs run a program at the same time.
const AT_ONCE: usize = 8;

/// Starts VMs from hot images, each of which runs a program, and measures their memory and processor time while they wait. Then all run
/// it again.
pub(crate) async fn measure(vms: usize) -> anyhow::Result<()> {
    let _ = raise_descriptor_limit();
    let start = Instant::now();
    let (engines, sandboxes) = start_vms(vms).await?;
    println!(
        "{vms} VMs started and said hello in {:.1} s",
        start.elapsed().as_secs_f64()
    );

    tokio::time::sleep(REST_TIME).await;
    print_memory(&sandboxes)?;
    let before = ProcessorTime::read(&sandboxes)?;
    let start = Instant::now();
    tokio::time::sleep(IDLE_TIME).await;
    let used = ProcessorTime::read(&sandboxes)?
        .since(&before)
        .as_secs_f64();
    let cores = used / start.elapsed().as_secs_f64();
    println!(
        "idle: {cores:.3} of a core for {vms} VMs, {:.4} % for each, over {} s",
        100.0 * cores / vms as f64,
        IDLE_TIME.as_secs()
    );

    let start = Instant::now();
    let sandboxes = hello_to_all(sandboxes).await?;
    println!(
        "{} VMs answered again in {:.1} s",
        sandboxes.len(),
        start.elapsed().as_secs_f64()
    );
    print_memory(&sandboxes)?;

    drop(sandboxes);
    drop(engines);
    Ok(())
}

/// Starts VMs. An engine admits as many as could fill their memory, so several engines share the host.
async fn start_vms(vms: usize) -> anyhow::Result<(Vec<Engine>, Vec<Sandbox>)> {
    let (mut engines, mut sandboxes) = (Vec::new(), Vec::new());
    while sandboxes.len() < vms {
        let engine = harness::engine(true)?;
        ensure!(
            engine.capacity().free_mib >= FREE_MIB,
            "the memory of this host suffices for {} VMs",
            sandboxes.len()
        );

        while sandboxes.len() < vms && engine.capacity().free_mib >= FREE_MIB {
            let sandbox = harness::sandbox(&engine, PYTHON).await?;
            ensure!(
                sandbox.source() == VmOrigin::HotImage,
                "VM {} is not from a hot image: {:?}",
                sandboxes.len(),
                sandbox.source()
            );
            hello(&sandbox).await?;
            sandboxes.push(sandbox);
        }
        engines.push(engine);
    }

    Ok((engines, sandboxes))
}

/// Runs a program in each sandbox, some at the same time.
async fn hello_to_all(sandboxes: Vec<Sandbox>) -> anyhow::Result<Vec<Sandbox>> {
    let (mut waiting, mut running) = (sandboxes.into_iter(), JoinSet::new());
    let mut done = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(sandbox) = waiting.next()
        {
            running.spawn(async move { hello(&sandbox).await.map(|()| sandbox) });
        }
        match running.join_next().await {
            Some(sandbox) => done.push(sandbox??),
            None => return Ok(done),
        }
    }
}

async fn hello(sandbox: &Sandbox) -> anyhow::Result<()> {
    let run = sandbox.run(&RunRequest::new(PYTHON, HELLO[0]).timeout_s(120))?;
    let outcome: Outcome = run.outcome().await?;
    ensure!(outcome.exit_code == Some(0), "a hello failed: {outcome:?}");
    Ok(())
}

/// Prints the memory of all VMs together.
fn print_memory(sandboxes: &[Sandbox]) -> anyhow::Result<()> {
    let (mut all, mut own) = (0.0, 0.0);
    for sandbox in sandboxes {
        let (pss, private) = memory(sandbox.process_id())?;
        all += pss;
        own += private;
    }

    println!(
        "memory of all VMs: {all:.0} MiB, {own:.0} MiB of it not shared ({:.1} MiB each)",
        own / sandboxes.len() as f64
    );
    Ok(())
}
