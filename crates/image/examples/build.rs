//! Builds the default image with the agent given as the first argument, and prints the progress.
//!
//! `cargo run -p fumehood-image --example build -- AGENT [--refresh] [--lz4] [--debian]`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use fumehood_image::{
    BuildOptions, Error, KernelChoice, Progress, RootFormat, Step, StepEnd, Store, build,
};

struct Print;

impl Progress for Print {
    fn started(&mut self, step: &Step) {
        let usual = step.usual.as_secs();
        println!(
            "[{}/{}] {} (usually {usual} s)",
            step.index, step.total, step.title
        );
    }

    fn done(&mut self, step: &Step, end: StepEnd, took: Duration) {
        println!("[{}/{}] {end:?} in {took:.1?}", step.index, step.total);
    }

    fn advanced(&mut self, _: &Step, fraction: Option<f64>, line: &str) {
        if std::env::var_os("VERBOSE").is_some() {
            println!("  {:>4.0} %  {line}", fraction.unwrap_or_default() * 100.0);
        }
    }

    fn waiting(&mut self) {
        println!("another build uses this store: waiting");
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let agent = arguments.first().cloned().unwrap_or_default();
    let store = Store::open(Store::default_root()?)?;
    let mut options = BuildOptions::new(agent);
    options.refresh = arguments.iter().any(|a| a == "--refresh");

    if arguments.iter().any(|a| a == "--lz4") {
        options.format = RootFormat::Lz4;
    }

    if arguments.iter().any(|a| a == "--debian") {
        options.kernel = KernelChoice::Debian;
    }

    let start = Instant::now();
    let report = build(&store, &options, &mut Print)?;
    println!(
        "{:?} {} in {:.2?}",
        report.outcome,
        report.image.id(),
        start.elapsed()
    );

    let start = Instant::now();
    let image = store.image(&options.name)?;
    println!("opened in {:.2?}", start.elapsed());

    for part in [image.kernel(), image.initrd(), image.rootfs()] {
        println!(
            "{:>11} {} {}",
            part.bytes(),
            &part.sha256()[..12],
            part.path().display()
        );
    }

    Ok(())
}
