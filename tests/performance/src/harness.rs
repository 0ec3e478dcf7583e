//! Engines, runs and execs as the measurements use them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::{
    Config, Engine, Event, Language, Outcome, Pool, RunRequest, Sandbox, TemplateUse,
};

/// The language of measurements that use only one.
pub(crate) const PYTHON: Language = Language::Python;
/// The time to fill a pool.
const POOL_TIMEOUT: Duration = Duration::from_secs(60);
/// The time in which a VM that was just started finishes its remaining work.
const SETTLE_TIME: Duration = Duration::from_millis(30);

/// Starts an engine with this many hot VMs of these languages, and this many standby processes.
pub(crate) fn engine(hot: usize, standby: usize, languages: &[Language]) -> anyhow::Result<Engine> {
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

/// Waits until the pool holds this many hot VMs and standby processes.
pub(crate) async fn wait_for_pool(engine: &Engine, size: (usize, usize)) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let status = engine.pool_status();
        if (status.warm, status.standby) == size {
            break;
        }
        ensure!(
            start.elapsed() < POOL_TIMEOUT,
            "the pool was not filled in time"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    tokio::time::sleep(SETTLE_TIME).await;
    Ok(())
}

/// Starts a sandbox of the default memory size.
pub(crate) async fn sandbox(engine: &Engine, language: Language) -> anyhow::Result<Sandbox> {
    let builder = engine.sandbox().language(language);
    Ok(builder.memory_mib(RunRequest::DEFAULT_MEMORY_MIB).await?)
}

/// Runs a program. Returns the time to the first byte of its output, and its outcome.
pub(crate) async fn run(
    engine: &Engine,
    language: Language,
    code: &str,
) -> anyhow::Result<(Duration, Outcome)> {
    let start = Instant::now();
    let mut run = engine.run(RunRequest::new(language, code).timeout_s(120))?;
    let mut first_output = None;
    while let Some(event) = run.next().await {
        if let Event::Stdout(_) = event {
            first_output.get_or_insert_with(|| start.elapsed());
        }
    }

    let outcome = run.outcome().await?;
    ensure!(outcome.exit_code == Some(0), "the run failed: {outcome:?}");
    let first_output = first_output.context("the program printed nothing")?;

    Ok((first_output, outcome))
}

/// Runs code in a sandbox's context. Returns the time from the request to the outcome.
pub(crate) async fn exec(sandbox: &Sandbox, code: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let outcome = sandbox
        .run(&RunRequest::new(PYTHON, code).context("main").timeout_s(120))?
        .outcome()
        .await?;
    ensure!(outcome.exit_code == Some(0), "an exec failed: {outcome:?}");

    Ok(start.elapsed())
}
