//! Keeps a VM for several programs: a Python context, files, a checkpoint, and a fork.
//!
//! `cargo run -p fumehood-engine --example session`

use std::error::Error;
use std::time::Duration;

use fumehood_engine::{Config, Engine, Event, Language, Run, SpawnRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::start(Config::default())?;
    let sandbox = engine
        .sandbox()
        .language(Language::Python)
        .memory_mib(512)
        .idle_timeout(Duration::from_secs(600))
        .await?;

    // A context keeps its state from one run to the next.
    let python = sandbox.context("main", Language::Python);
    python.run("import math; radius = 2")?.outcome().await?;
    print!(
        "{}",
        stdout(python.run("print(math.pi * radius ** 2)")?).await?
    );

    // Files are shared by all programs of the sandbox.
    sandbox.files().write("notes.txt", "kept\n").await?;
    let cat = sandbox.spawn(&SpawnRequest::new(["cat", "notes.txt"]))?;
    print!("{}", stdout(cat).await?);

    // Others start from its state, with the context's variables.
    let checkpoint = sandbox.checkpoint().await?;
    println!("the checkpoint takes {} MiB", checkpoint.bytes() >> 20);
    for (n, child) in sandbox.fork(2).await?.into_iter().enumerate() {
        let context = child.context("main", Language::Python);
        let text = stdout(context.run(format!("print('child', {n}, radius + {n})"))?).await?;
        print!("{text}");
    }

    let took = sandbox.end().await;
    println!("the sandbox ended in {took:?}");
    Ok(())
}

/// Waits for the end of a run; returns its standard output.
async fn stdout(mut run: Run) -> Result<String, fumehood_engine::Error> {
    let mut text = String::new();
    while let Some(event) = run.next().await {
        if let Event::Stdout(bytes) = event {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    run.outcome().await?;
    Ok(text)
}
