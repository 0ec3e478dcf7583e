//! `fumehood conformance`: tests an agent of the protocol.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use fumehood_conformance::Options;

use crate::args::ConformanceArgs;
use crate::exit_code::NONCONFORMING;

pub(crate) fn run(args: &ConformanceArgs) -> anyhow::Result<ExitCode> {
    let report = fumehood_conformance::run(&Options {
        address: args.address.clone(),
        token: args.token.clone(),
        version: args.version,
        only: args.clauses.clone(),
        packages: args.packages,
        deadline: Duration::from_secs(args.deadline.get().into()),
    })?;

    let mut stdout = std::io::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        write!(stdout, "{}", report.to_text())?;
    }
    stdout.flush()?;

    if report.passed() {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::from(NONCONFORMING))
    }
}
