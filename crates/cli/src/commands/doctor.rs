//! `fumehood doctor`: checks this machine.

use std::process::ExitCode;

use fumehood_engine::doctor::{Health, examine};

use crate::args::HostArgs;
use crate::exit_code::FAILURE;
use crate::io::print_line;

pub(crate) fn run(host: &HostArgs) -> anyhow::Result<ExitCode> {
    let findings = examine(&host.config());

    for finding in &findings {
        let status = match finding.health {
            Health::Good => "ok  ",
            Health::Reduced => "note",
            Health::Bad => "BAD ",
        };
        print_line(&format!("{status} {}: {}", finding.subject, finding.what))?;
        if !finding.fix.is_empty() {
            print_line(&format!("     fix: {}", finding.fix))?;
        }
    }

    // Reduced findings, such as missing KVM, leave the machine usable.
    let is_usable = findings.iter().all(|finding| finding.health != Health::Bad);
    Ok(if is_usable {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}
