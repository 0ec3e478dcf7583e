//! The command's flow: plan, run, report.

use std::process::ExitCode;

use fumehood_engine::{Config, Engine, RunRequest, TemplateUse};

use super::backend::RunBackend;
use super::folders::MountedFolders;
use super::follow::{RunEnd, follow};
use super::plan::{Program, plan};
use super::report::{report, report_invalid};
use super::via_server;
use crate::args::{HostArgs, RunArgs};
use crate::commands::runtime::start_runtime;
use crate::commands::store::missing_images::build_in_background;
use crate::io::{Interrupts, Output};

pub(crate) fn run(args: &RunArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    match plan(args) {
        Ok((program, request, folders)) => execute(&program, request, folders, args, host),
        Err(error) => {
            if args.json {
                report_invalid(&error)?;
            }
            Err(error)
        }
    }
}

fn execute(
    program: &Program,
    request: RunRequest,
    mut folders: MountedFolders,
    args: &RunArgs,
    host: &HostArgs,
) -> anyhow::Result<ExitCode> {
    let mut output = if args.json {
        Output::to_memory()
    } else {
        Output::to_streams()
    };

    let runtime = start_runtime()?;
    let mut local_engine = None;
    let end = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;

        // A running server has VMs ready. It leaves some runs to this process.
        let end = via_server::run(program, args, host, &mut output, &mut interrupts).await?;
        if let Some(end) = end {
            return Ok(end);
        }

        let config = config(args, host);
        let started = Engine::start(config).and_then(|engine| {
            let engine = local_engine.insert(engine);
            engine.run(request)
        });
        match started {
            Ok(run) => follow(RunBackend::Local(run), args, &mut output, &mut interrupts).await,
            Err(error) => Ok(RunEnd::Failed(error.into())),
        }
    });

    let code = end.and_then(|end| {
        let code = report(&end, &output, args)?;
        // The changes of a folder are offered after everything else was reported.
        runtime.block_on(folders.offer(&end, code, args))
    });

    // A blocked write of output or read of standard input must not keep the process alive.
    runtime.shutdown_background();
    let code = code?;
    if let Some(engine) = local_engine {
        build_in_background(&engine, host);
    }
    Ok(ExitCode::from(code))
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
