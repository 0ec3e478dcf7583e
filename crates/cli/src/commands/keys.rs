use std::process::ExitCode;

use fumehood_server::{Store, api_keys as keys};

use super::{complain, say};
use crate::args::{Keys, KeysCommand};

pub(crate) fn run(args: &Keys) -> anyhow::Result<ExitCode> {
    let path = args.state.clone().unwrap_or_else(Store::default_path);
    let store = Store::open(&path)?;
    match &args.command {
        KeysCommand::Create { name } => {
            let key = keys::create(&store, name)?;
            complain("this key is shown once, and cannot be had again");
            say(&key)?;
        }
        KeysCommand::List => {
            for key in keys::list(&store)? {
                let state = match key.revoked {
                    Some(at) => format!("revoked {at:.0}"),
                    None => "valid".to_string(),
                };
                say(&format!(
                    "{}\t{}\t{:.0}\t{state}",
                    key.name, key.id, key.created
                ))?;
            }
        }
        KeysCommand::Revoke { name } => keys::revoke(&store, name)?,
    }
    Ok(ExitCode::SUCCESS)
}
