use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use fumehood_engine::{Config, Engine, TemplateUse, fresh_token};
use tokio::net::TcpListener;

use super::runtime::runtime;
use crate::args::{Agent, Host};
use crate::exit_code::INTERRUPTED;
use crate::io::Interrupts;

pub(crate) fn run(args: &Agent, host: &Host) -> anyhow::Result<ExitCode> {
    if !args.listen.ip().is_loopback() {
        bail!(
            "{} is no loopback address; use 127.0.0.1 or [::1]",
            args.listen.ip()
        );
    }
    runtime()?.block_on(async {
        let mut interrupts = Interrupts::new()?;
        tokio::select! {
            served = serve(args, host) => served,
            _ = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
        }
    })
}

async fn serve(args: &Agent, host: &Host) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let config = Config {
        templates: TemplateUse::Use,
        ..host.config()
    };
    let line = Engine::start(config)?.agent_line(args.memory).await?;
    let token = if args.no_token {
        None
    } else {
        Some(fresh_token()?)
    };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    match &token {
        Some(token) => writeln!(stdout, "token {token}")?,
        None => eprintln!(
            "fumehood: warning: every program on this machine can use this VM (--no-token)"
        ),
    }
    stdout.flush()?;
    line.serve(listener, token).await?;
    Ok(ExitCode::SUCCESS)
}
