//! `fumehood run` by a server of this user's, where one runs.

use fumehood_engine::image::Store;
use fumehood_engine::{Config, Language};
use serde_json::{Value, json};

use super::backend::Going;
use super::follow::{End, follow};
use super::plan::Plan;
use super::server_client::Server;
use crate::args::{Host, Run as RunArgs, environment};
use crate::io::{Interrupts, Output};

/// Has it run there; none: this command is to do it itself, and nothing was begun.
pub(super) async fn run<'a>(
    plan: &'a Plan,
    args: &RunArgs,
    host: &Host,
    output: &mut Output,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<End<'a>>> {
    if !may_be_served(plan, args, host) {
        return Ok(None);
    }
    // What is wrong with the image is said by the way that needs it.
    let Some(image) = image() else {
        return Ok(None);
    };
    let begun = async {
        let server = Server::find(&image).await?;
        Some(server.run(&body(plan, args)).await)
    };
    let begun = tokio::select! {
        begun = begun => begun,
        _ = interrupts.next() => return Ok(Some(End::Abandoned)),
    };
    Ok(match begun {
        None | Some(Ok(None)) => None,
        Some(Ok(Some(running))) => {
            Some(follow(Going::There(Box::new(running)), args, output, interrupts).await?)
        }
        Some(Err(failure)) => Some(End::Failed(failure)),
    })
}

/// The image that this command would run.
fn image() -> Option<String> {
    let store = Store::open(Store::default_root().ok()?).ok()?;
    let image = store.image(&Config::default().image).ok()?;
    Some(image.id().to_owned())
}

/// Whether a server would do just what this command does. What is particular (files, a network, packages, another
/// QEMU) it does itself.
fn may_be_served(plan: &Plan, args: &RunArgs, host: &Host) -> bool {
    let is_plain = host.is_default() && !args.boot && !args.has_raised_timeout();
    let is_alone = plan.uploads.is_empty() && plan.downloads.is_empty() && plan.network.is_none();
    !args.no_server && is_plain && is_alone && args.packages.is_empty()
}

fn body(plan: &Plan, args: &RunArgs) -> Value {
    let language = match plan.language {
        Language::Python => "python",
        Language::Javascript => "javascript",
        Language::Shell => "shell",
    };
    let env = args
        .env
        .iter()
        .filter_map(|variable| environment(variable).ok());
    let env: serde_json::Map<_, _> = env
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    json!({
        "language": language,
        "code": plan.code,
        "env": env,
        "cwd": args.cwd,
        "timeout_s": args.timeout,
        "memory_mib": args.memory,
        "stdin": args.stdin,
        "display": args.display,
        "fresh_interpreter": args.fresh_interpreter,
    })
}
