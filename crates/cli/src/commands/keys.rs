//! `fumehood keys`: manages API keys in the server's state.

use std::process::ExitCode;

use fumehood_server::{Store, api_keys};

use crate::args::{KeysArgs, KeysCommand};
use crate::io::{eprint_message, print_line};

pub(crate) fn run(args: &KeysArgs) -> anyhow::Result<ExitCode> {
    let path = args.state.clone().unwrap_or_else(Store::default_path);
    let store = Store::open(&path)?;

    match &args.command {
        KeysCommand::Create { name, operator } => {
            let key = api_keys::create(&store, name, *operator)?;
            eprint_message("store this key now; it cannot be shown again");
            print_line(&key)?;
        }
        KeysCommand::List => list(&store)?,
        KeysCommand::Revoke { name } => api_keys::revoke(&store, name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store) -> anyhow::Result<()> {
    for key in api_keys::list(store)? {
        let state = match key.revoked {
            Some(time) => format!("revoked {time:.0}"),
            None => "valid".to_string(),
        };
        let role = if key.is_operator { " operator" } else { "" };
        let (name, id, created) = (key.name, key.id, key.created);
        print_line(&format!("{name}\t{id}\t{created:.0}\t{state}{role}"))?;
    }
    Ok(())
}
