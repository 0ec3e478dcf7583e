//! `fumehood agent`: serves the agent's protocol of one VM on a TCP port.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use fumehood_engine::{Config, Engine, TemplateUse, fresh_token};
use tokio::net::TcpListener;

use super::runtime::start_runtime;
use crate::args::{AgentArgs, HostArgs};
use crate::exit_code::INTERRUPTED;
use crate::io::{Interrupts, eprint_message};

pub(crate) fn run(args: &AgentArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    if !args.listen.ip().is_loopback() {
        bail!(
            "{} is not a loopback address; use 127.0.0.1 or [::1]",
            args.listen.ip()
        );
    }

    start_runtime()?.block_on(async {
        let mut interrupts = Interrupts::new()?;
        tokio::select! {
            result = serve(args, host) => result,
            _ = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
        }
    })
}

async fn serve(args: &AgentArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    // Bind first, so that a port in use is reported before a VM starts.
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;

    let config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    let connection = Engine::start(config)?.agent_line(args.memory).await?;
    let token = if args.no_token {
        None
    } else {
        Some(fresh_token()?)
    };

    // Clients parse these lines.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    match &token {
        Some(token) => writeln!(stdout, "token {token}")?,
        None => eprint_message("warning: any program on this machine can use this VM (--no-token)"),
    }
    stdout.flush()?;

    connection.serve(listener, token).await?;
    Ok(ExitCode::SUCCESS)
}
