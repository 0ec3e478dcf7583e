use anyhow::Context;
use fumehood_engine::Event;

use super::backend::Going;
use crate::args::Run as RunArgs;
use crate::io::{Interrupts, Output, PackageProgress, Patience, exposed};
use crate::outcome::{Ended, Failure};
use crate::transfer::{Download, Downloaded};

/// How it ended, as the command sees it.
pub(super) enum End<'a> {
    Ended(Box<Ended>, Vec<(&'a Download, Downloaded)>),
    Failed(Failure),
    /// Interrupted twice: the VM was ended at once. Or before the code was started.
    Abandoned,
    /// Nobody reads the output.
    BrokenPipe,
}

/// Follows a run to its end.
pub(super) async fn follow<'a>(
    mut run: Going,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<End<'a>> {
    let mut patience = Patience::new(interrupts, run.canceller());
    let shown = PackageProgress::new(args.quiet);
    let _feeding = args.stdin.then(|| run.feed());
    loop {
        let event = match patience.with(run.next()).await {
            None => return Ok(End::Abandoned),
            Some(None) => break,
            Some(Some(event)) => event,
        };
        match &event {
            Event::Packages(step) => shown.step(*step),
            _ => shown.finish(),
        }
        if let (Event::Exposed { url }, false) = (&event, args.quiet) {
            exposed(url);
        }
        match patience.with(output.take(&event)).await {
            None => return Ok(End::Abandoned),
            Some(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(End::BrokenPipe);
            }
            Some(other) => other.context("the output could not be written")?,
        }
    }
    shown.finish();
    Ok(match run.end().await {
        Ok(ended) => End::Ended(Box::new(ended), Vec::new()),
        Err(failure) => End::Failed(failure),
    })
}
