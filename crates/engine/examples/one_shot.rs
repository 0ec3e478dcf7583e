//! Runs one program in a fresh VM, with a file that goes in and one that comes out.
//!
//! `cargo run -p fumehood-engine --example one_shot`

use std::error::Error;
use std::io::Write;

use fumehood_engine::{Config, DownloadTarget, Engine, Event, Language, RunRequest, TemplateUse};

const CODE: &str = r#"
numbers = [int(line) for line in open("numbers.txt")]
print("read", len(numbers), "numbers")
open("sum.txt", "w").write(str(sum(numbers)))
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A program that runs once uses templates, and does not build missing ones.
    let engine = Engine::start(Config {
        templates: TemplateUse::Use,
        ..Config::default()
    })?;

    let request = RunRequest::new(Language::Python, CODE)
        .timeout_s(60)
        .memory_mib(256)
        .upload(b"1\n2\n3\n".to_vec(), "numbers.txt")
        .download("sum.txt", DownloadTarget::Memory);
    let mut run = engine.run(request)?;
    while let Some(event) = run.next().await {
        match event {
            Event::Ready { source } => eprintln!("the VM is ready ({})", source.as_str()),
            Event::Stdout(bytes) => std::io::stdout().write_all(&bytes)?,
            Event::Stderr(bytes) => std::io::stderr().write_all(&bytes)?,
            _ => {}
        }
    }

    let outcome = run.outcome().await?;
    println!(
        "ended by {}, exit code {:?}",
        outcome.ended_by, outcome.exit_code
    );
    println!("the whole run took {:?}", outcome.timing.total);
    for download in outcome.downloads {
        match (download.content, download.error) {
            (Some(content), _) => {
                println!("{}: {}", download.remote, String::from_utf8_lossy(&content));
            }
            (None, error) => println!("{}: {}", download.remote, error.unwrap_or_default()),
        }
    }
    Ok(())
}
