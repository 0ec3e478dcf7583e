use std::time::Instant;

use fumehood_engine::{EndedBy, Engine, Sandbox};

use super::backend::RunBackend;
use super::follow::{RunEnd, follow};
use super::plan::Plan;
use crate::args::RunArgs;
use crate::io::{Interrupts, Output, PackageProgress, print_exposed_ports};
use crate::outcome::{Failure, RunDetails};
use crate::transfer::{Download, DownloadResult, upload_all};

/// The same in a sandbox, with files that go in before and come out after it.
pub(super) async fn run_in_sandbox<'a>(
    engine: &Engine,
    plan: &'a Plan,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<RunEnd<'a>> {
    let start = Instant::now();
    let prepared = tokio::select! {
        prepared = prepare(engine, plan, args) => prepared,
        _ = interrupts.next() => return Ok(RunEnd::Abandoned),
    };
    let sandbox = match prepared {
        Ok(sandbox) => sandbox,
        Err(failure) => return Ok(RunEnd::Failed(failure)),
    };
    let run = match sandbox.run(&plan.request) {
        Ok(run) => run,
        Err(error) => return Ok(RunEnd::Failed(error.into())),
    };
    let mut end = follow(RunBackend::Local(run), args, output, interrupts).await?;
    if let RunEnd::Finished(ended, downloads) = &mut end {
        tokio::select! {
            came = fetch(&sandbox, ended.ended_by, &plan.downloads) => *downloads = came,
            _ = interrupts.next() => return Ok(RunEnd::Abandoned),
        }
        ended.network = sandbox.network();
        let teardown = sandbox.end().await;
        if let RunDetails::Outcome(outcome) = &mut ended.details {
            outcome.timing.start = sandbox.start();
            outcome.timing.teardown = teardown;
            outcome.timing.total = start.elapsed();
            outcome.network.clone_from(&ended.network);
        }
    }
    Ok(end)
}

/// A sandbox that has the files.
async fn prepare(engine: &Engine, plan: &Plan, args: &RunArgs) -> Result<Sandbox, Failure> {
    let mut builder = engine.sandbox().language(plan.language);
    if let Some(network) = &plan.network {
        builder = builder.network(network.clone());
    }
    let progress = PackageProgress::new(args.quiet);
    let builder = args.packages.add_to_sandbox(builder, &progress);
    let sandbox = builder.memory_mib(args.memory).await;
    progress.clear();
    let sandbox = sandbox?;
    if !args.quiet {
        print_exposed_ports(&sandbox);
    }
    upload_all(&plan.uploads, &sandbox).await?;
    Ok(sandbox)
}

/// Copies what is asked for out of the VM, where there still is one.
async fn fetch<'a>(
    sandbox: &Sandbox,
    ended_by: EndedBy,
    downloads: &'a [Download],
) -> Vec<(&'a Download, DownloadResult)> {
    let is_lost = ended_by == EndedBy::AgentLost;
    let mut all = Vec::with_capacity(downloads.len());
    for download in downloads {
        let came = match is_lost {
            true => Err("the VM was lost".to_string()),
            false => download
                .run(&sandbox.files())
                .await
                .map_err(|e| format!("{e:#}")),
        };
        all.push((download, came));
    }
    all
}
