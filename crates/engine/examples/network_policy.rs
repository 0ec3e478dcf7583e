//! Gives a VM a network that reaches only one host, and prints denied connections.
//!
//! `cargo run -p fumehood-engine --example network_policy`

use std::error::Error;

use fumehood_engine::policy::{Document, RuleSpec};
use fumehood_engine::{Config, Engine, Event, Language, Network, RunRequest};

const CODE: &str = r#"
import urllib.request

for url in ["https://example.com/", "https://example.org/"]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            print(url, answer.status)
    except OSError as error:
        print(url, error)
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Rules allow hosts; all others are denied.
    let document = Document {
        allow: vec![RuleSpec::parse_word("example.com")?],
        ..Document::default()
    };
    let network = Network::new(document.policy("example")?);

    let engine = Engine::start(Config::default())?;
    let request = RunRequest::new(Language::Python, CODE).network(network);
    let mut run = engine.run(request)?;
    while let Some(event) = run.next().await {
        match event {
            Event::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
            Event::Network(event) if !event.allowed => eprintln!("denied: {}", event.message),
            _ => {}
        }
    }

    let outcome = run.outcome().await?;
    if let Some(network) = outcome.network {
        let summary = network.summary;
        println!(
            "{} connections, {} bytes sent, {} bytes received, {} kinds of denials",
            summary.connections,
            summary.bytes_up,
            summary.bytes_down,
            summary.denials.len()
        );
    }
    Ok(())
}
