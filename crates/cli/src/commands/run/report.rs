use super::follow::End;
use super::json;
use crate::args::Run as RunArgs;
use crate::exit_code::{BROKEN_PIPE, FAILURE, INTERRUPTED};
use crate::io::{Output, complain, denied, say};
use crate::outcome::{exit_code, explain};
use crate::transfer::{Download, Downloaded};

/// Says what there is to say and returns the exit code.
pub(super) fn report(end: End<'_>, output: &Output, args: &RunArgs) -> anyhow::Result<u8> {
    Ok(match end {
        End::Ended(outcome, downloads) => {
            if let Output::Kept(kept) = output {
                say(&json::outcome(&outcome, kept, args.display, &downloads))?;
            } else if !args.quiet {
                explain(&outcome, limit(args), args.memory);
                if let Some(network) = &outcome.network {
                    denied(network);
                }
            }
            match (exit_code(&outcome), missing(&downloads)) {
                (0, true) => FAILURE,
                (code, _) => code,
            }
        }
        End::Failed(failure) => {
            if args.json {
                say(&json::failure(
                    &failure.kind,
                    &failure.retry,
                    &failure.message,
                ))?;
            }
            complain(&failure.message);
            FAILURE
        }
        End::Abandoned => {
            if args.json {
                say(&json::failure(
                    "interrupted",
                    "unknown",
                    "interrupted; the VM was ended",
                ))?;
            }
            INTERRUPTED
        }
        End::BrokenPipe => BROKEN_PIPE,
    })
}

/// Says which downloads have failed; whether any has.
fn missing(downloads: &[(&Download, Downloaded)]) -> bool {
    let mut any = false;
    for (download, came) in downloads {
        if let Err(message) = came {
            complain(&format!("--download {}: {message}", download.remote));
            any = true;
        }
    }
    any
}

fn limit(args: &RunArgs) -> u64 {
    if args.timeout == 0 {
        args.max_timeout
    } else {
        args.timeout
    }
}
