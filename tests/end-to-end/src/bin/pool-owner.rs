//! Fills a pool and prints `ready`; then, after a line of input, runs a program and prints where its VM came from. With
//! the argument `forks`, it prints `ready` and forks a sandbox repeatedly.

use std::time::{Duration, Instant};

use fumehood_end_to_end::DEADLINE;
use fumehood_engine::{Config, Engine, Language, Pool, RunRequest, TemplateUse};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("forks") {
        return forks().await;
    }

    let engine = Engine::start(Config {
        templates: TemplateUse::UseAndBuild,
        pool: Pool {
            warm_vms: 2,
            standby_processes: 1,
            languages: vec![Language::Shell],
            ..Pool::default()
        },
        ..Config::default()
    })?;

    let is_full = || {
        let status = engine.pool_status();
        (status.warm, status.standby) == (2, 1)
    };
    let start = Instant::now();
    while !is_full() {
        if start.elapsed() > DEADLINE {
            return Err(format!("the pool does not fill: {:?}", engine.pool_status()).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let run = engine.run(RunRequest::new(Language::Shell, "echo hi"))?;
    let outcome = run.outcome().await?;
    println!("{}", outcome.source.as_str());

    Ok(())
}

async fn forks() -> Result<(), Box<dyn std::error::Error>> {
    const TIMES: usize = 100;
    let engine = Engine::start(Config {
        templates: TemplateUse::UseAndBuild,
        ..Config::default()
    })?;

    let memory_mib = RunRequest::DEFAULT_MEMORY_MIB;
    let sandbox = engine
        .sandbox()
        .language(Language::Shell)
        .memory_mib(memory_mib)
        .await?;
    println!("ready");
    for _ in 0..TIMES {
        sandbox.fork(2).await?;
    }

    Ok(())
}
