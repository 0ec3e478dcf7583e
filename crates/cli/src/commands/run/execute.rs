//! The command's flow: plan, run, report.

use std::process::ExitCode;

use fumehood_engine::{Config, Engine, TemplateUse};

use super::backend::RunBackend;
use super::follow::{RunEnd, follow};
use super::in_sandbox::run_in_sandbox;
use super::json;
use super::plan::{Plan, plan};
use super::report::report;
use super::via_server;
use crate::args::{HostArgs, RunArgs};
use crate::commands::runtime::start_runtime;
use crate::io::{Interrupts, Output, print_line};

pub(crate) fn run(args: &RunArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    match plan(args) {
        Ok(plan) => execute(&plan, args, host),
        Err(error) if args.json => {
            print_line(&json::failure("invalid", "never", &format!("{error:#}")))?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

fn execute(plan: &Plan, args: &RunArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    let config = config(args, host);
    let mut output = if args.json {
        Output::to_memory()
    } else {
        Output::to_streams()
    };

    let runtime = start_runtime()?;
    let end = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;

        // A running server has VMs ready. It leaves some runs to this process.
        if let Some(end) = via_server::run(plan, args, host, &mut output, &mut interrupts).await? {
            return Ok(end);
        }

        run_here(config, plan, args, &mut output, &mut interrupts).await
    });

    // A blocked write of output or read of standard input must not keep the process alive.
    runtime.shutdown_background();
    Ok(ExitCode::from(report(end?, &output, args)?))
}

fn config(args: &RunArgs, host: &HostArgs) -> Config {
    let mut config = host.config();
    config.limits.timeout_s = args.max_timeout;
    args.packages.configure(&mut config);
    // A short-lived command builds no templates in the background.
    config.templates = if args.boot {
        TemplateUse::Never
    } else {
        TemplateUse::Use
    };
    config
}

/// Runs the program with an engine in this process.
async fn run_here<'a>(
    config: Config,
    plan: &'a Plan,
    args: &RunArgs,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<RunEnd<'a>> {
    let engine = match Engine::start(config) {
        Ok(engine) => engine,
        Err(error) => return Ok(RunEnd::Failed(error.into())),
    };
    if !plan.uploads.is_empty() || !plan.downloads.is_empty() {
        return run_in_sandbox(&engine, plan, args, output, interrupts).await;
    }

    let mut request = args.packages.add_to_run(plan.request.clone());
    if let Some(network) = &plan.network {
        request = request.network(network.clone());
    }
    match engine.run(request) {
        Ok(run) => follow(RunBackend::Local(run), args, output, interrupts).await,
        Err(error) => Ok(RunEnd::Failed(error.into())),
    }
}
