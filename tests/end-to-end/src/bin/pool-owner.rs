//! Keeps a pool and says `ready`; then, told by a line, runs a program and says where its VM came from.

use std::time::Duration;

use fumehood_engine::{Config, Engine, Language, Pool, RunRequest, TemplateUse};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        pool: Pool {
            hot: 2,
            blank: 1,
            languages: vec![Language::Raw],
            ..Pool::default()
        },
        ..Config::default()
    })?;
    while engine.ready() != (2, 1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    let run = engine.run(RunRequest::new(Language::Raw, "echo hi"))?;
    let outcome = run.outcome().await?;
    println!("{}", outcome.source.as_str());
    Ok(())
}
