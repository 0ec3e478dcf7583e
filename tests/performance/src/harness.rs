//! Engines, runs and execs as the measurements use them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_engine::{Config, Engine, Event, Language, Outcome, RunRequest, Sandbox, TemplateUse};

/// The language of measurements that use only one.
pub(crate) const PYTHON: Language = Language::Python;

/// Starts an engine that uses existing templates, and hot images or not.
pub(crate) fn engine(are_hot_images_used: bool) -> anyhow::Result<Engine> {
    Ok(Engine::start(Config {
        templates: TemplateUse::Use,
        hot_images: are_hot_images_used,
        ..Config::default()
    })?)
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
