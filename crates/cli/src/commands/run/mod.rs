mod backend;
mod follow;
mod in_sandbox;
mod json;
mod plan;
mod report;
mod server_client;
mod via_server;

use std::process::ExitCode;

use fumehood_engine::{Engine, TemplateUse};

use backend::Going;
use follow::{End, follow};
use in_sandbox::in_sandbox;
use plan::{Plan, plan};
use report::report;

use super::runtime::runtime;
use crate::args::{Host, Run as RunArgs};
use crate::io::{Interrupts, Output, say};

pub(crate) fn run(args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    match plan(args) {
        Ok(plan) => start(&plan, args, host),
        Err(error) if args.json => {
            say(&json::failure("invalid", "never", &format!("{error:#}")))?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

fn start(plan: &Plan, args: &RunArgs, host: &Host) -> anyhow::Result<ExitCode> {
    let mut config = host.config();
    config.limits.timeout_s = args.max_timeout;
    args.packages.configure(&mut config);
    // A command that is gone in a moment builds nothing behind its user's back.
    config.templates = if args.boot {
        TemplateUse::Never
    } else {
        TemplateUse::Use
    };
    let mut output = match args.json {
        true => Output::Kept(Box::default()),
        false => Output::streams(),
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        if let Some(end) = via_server::run(plan, args, host, &mut output, &mut interrupts).await? {
            return Ok(end);
        }
        let engine = match Engine::start(config) {
            Ok(engine) => engine,
            Err(error) => return Ok(End::Failed(error.into())),
        };
        if !plan.uploads.is_empty() || !plan.downloads.is_empty() {
            return in_sandbox(&engine, plan, args, &mut output, &mut interrupts).await;
        }
        let mut request = plan.request.clone();
        if let Some(network) = &plan.network {
            request = request.network(network.clone());
        }
        let request = args.packages.request(request);
        match engine.run(request) {
            Ok(run) => follow(Going::Here(run), args, &mut output, &mut interrupts).await,
            Err(error) => Ok(End::Failed(error.into())),
        }
    });
    // A write that nobody takes must not hold the command, nor a read that nothing comes to.
    runtime.shutdown_background();
    Ok(ExitCode::from(report(result?, &output, args)?))
}
