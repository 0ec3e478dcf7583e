use std::process::ExitCode;

use fumehood_engine::doctor::{Health, examine};

use crate::args::Host;
use crate::exit_code::FAILURE;
use crate::io::say;

pub(crate) fn run(host: &Host) -> anyhow::Result<ExitCode> {
    let findings = examine(&host.config());
    for finding in &findings {
        let mark = match finding.health {
            Health::Good => "ok  ",
            Health::Reduced => "note",
            Health::Bad => "BAD ",
        };
        say(&format!("{mark} {}: {}", finding.subject, finding.what))?;
        if !finding.fix.is_empty() {
            say(&format!("     fix: {}", finding.fix))?;
        }
    }
    let bad = findings.iter().any(|finding| finding.health == Health::Bad);
    Ok(if bad {
        ExitCode::from(FAILURE)
    } else {
        ExitCode::SUCCESS
    })
}
