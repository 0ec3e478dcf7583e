//! Owns VMs until it is killed. With the argument `builds`, it builds a template and its hot images in a store of its own,
//! which `FUMEHOOD_HOME` names; with `forks`, it prints `ready` and forks a sandbox repeatedly; otherwise it prints `ready`
//! when it has three VMs, and waits for the end of its input.

use std::io::Read;

use fumehood_engine::{Config, Engine, Language, Pool, RunRequest, TemplateUse};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("builds") => builds(),
        Some("forks") => forks().await,
        _ => vms().await,
    }
}

async fn vms() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::start(Config::default())?;
    let mut sandboxes = Vec::new();
    for _ in 0..3 {
        let memory_mib = RunRequest::DEFAULT_MEMORY_MIB;
        sandboxes.push(engine.sandbox().memory_mib(memory_mib).await?);
    }

    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn builds() -> Result<(), Box<dyn std::error::Error>> {
    let _engine = Engine::start(Config {
        templates: TemplateUse::UseAndBuild,
        pool: Pool {
            warm_vms: 1,
            languages: vec![Language::Shell],
            ..Pool::default()
        },
        ..Config::default()
    })?;

    std::io::stdin().read_to_end(&mut Vec::new())?;
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
