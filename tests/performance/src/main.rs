//! Measures how long runs take, next to floors measured in the same run.
//!
//! A floor is the least work that a measurement includes. Two floors are measured in turn with the rows above
//! them, so that a machine that slows down slows both: a bare boot of our kernel to a first process that does
//! nothing else, and a bare restore of a guest of seventeen bytes ([`floor`]).
//!
//! Usage: `fumehood-performance ROUNDS [PART…]`, with the command under test in `FUMEHOOD_BIN`;
//! `cargo xtask bench` builds everything and calls it.

mod part;
mod idle;
mod density;
mod packages;
mod network;
mod sessions;
mod starts;
mod floor;
mod harness;
mod programs;
mod series;

use std::path::PathBuf;

use anyhow::Context;
use fumehood_engine::{Language, RunRequest};

use part::{Bench, Part};
use series::Series;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds = match args.next() {
        Some(rounds) => rounds
            .parse::<u32>()
            .with_context(|| format!("invalid number of rounds `{rounds}`"))?
            .max(1),
        None => 20,
    };
    let parts = Part::select(&args.collect::<Vec<_>>())?;

    let program = std::env::var_os("FUMEHOOD_BIN")
        .map(PathBuf::from)
        .context("FUMEHOOD_BIN is not set: run `cargo xtask bench`")?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let engine = harness::engine(true)?;
        println!(
            "accelerator {} ({}); {rounds} rounds",
            engine.accelerator(),
            engine.accelerator_reason()
        );

        // Building a template or a hot image must not be part of a measurement.
        for language in Language::ALL {
            engine
                .build_template(language, RunRequest::DEFAULT_MEMORY_MIB)
                .await?;
        }

        Series::print_heads();
        let bench = Bench {
            engine: &engine,
            program: &program,
            rounds,
        };
        for part in parts {
            part.run(&bench).await?;
        }

        Ok(())
    })
}
