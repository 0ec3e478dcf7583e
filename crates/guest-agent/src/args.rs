use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;

use fumehood_protocol::{LIMITS, Limits};

use crate::process::User;
use crate::settings::{VERSION, set_limit_value};

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum CliAction {
    /// To print this and be done.
    Print(String),
    /// To serve TCP.
    Listen(Box<ListenOptions>),
}

/// How to serve TCP.
#[derive(Debug)]
pub(crate) struct ListenOptions {
    /// Where; port 0 takes any.
    pub(crate) address: SocketAddr,
    /// The secret of every connection; none only on a loopback address.
    pub(crate) token: Option<String>,
    /// What clients may ask for at most.
    pub(crate) limits: Limits,
    /// Who programs run as; none = whoever the agent runs as.
    pub(crate) user: Option<User>,
    /// A cgroup (version 2) directory that belongs to the agent, for the programs.
    pub(crate) cgroup: Option<PathBuf>,
}

const TOKEN_VARIABLE: &str = "FUMEHOOD_AGENT_TOKEN";

const USAGE: &str = "\
Runs code that a client sends, as the user who starts it. Use it inside a machine that may be broken.

Usage: fumehood-agent --listen ADDRESS:PORT [OPTIONS]

Options:
  --listen ADDRESS:PORT  Where to serve; port 0 takes a free one. Prints `listening on ADDRESS:PORT`
  --token-file FILE      Read the token that every client must send in `hello` from FILE;
                         without it, from the environment variable FUMEHOOD_AGENT_TOKEN
  --no-token             Serve whoever connects; only on a loopback address
  --limit NAME=VALUE     Set a limit; may be repeated. The limits and their defaults are below
  --user NAME_OR_UID     Run programs as this user; the agent must be root
  --cgroup DIR           Make a cgroup for each program in DIR, a cgroup v2 directory of the agent's own
  --help, --version      Print this, or the version

Limits:
";

/// Reads the command line.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<CliAction, String> {
    let mut arguments = arguments;
    let mut raw = RawArgs::default();
    while let Some(argument) = arguments.next() {
        let argument = text(&argument)?;
        let mut value = || {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value; see --help"))?;
            text(&value)
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(CliAction::Print(usage())),
            "--version" | "-V" => {
                return Ok(CliAction::Print(format!("fumehood-agent {VERSION}\n")));
            }
            "--listen" => raw.address = Some(address(&value()?)?),
            "--token-file" => raw.token_file = Some(value()?.into()),
            "--no-token" => raw.no_token = true,
            "--limit" => parse_limit(&mut raw.limits, &value()?)?,
            "--user" => raw.user = Some(User::lookup(&value()?)?),
            "--cgroup" => raw.cgroup = Some(value()?.into()),
            other => return Err(format!("unknown argument `{other}`; see --help")),
        }
    }
    raw.validate()
        .map(|listen| CliAction::Listen(Box::new(listen)))
}

/// The command line, read but not yet weighed.
#[derive(Debug, Default)]
struct RawArgs {
    address: Option<SocketAddr>,
    token_file: Option<PathBuf>,
    no_token: bool,
    limits: Limits,
    user: Option<User>,
    cgroup: Option<PathBuf>,
}

impl RawArgs {
    fn validate(self) -> Result<ListenOptions, String> {
        let address = self
            .address
            .ok_or("say where to serve, with --listen ADDRESS:PORT; see --help")?;
        let from_environment = std::env::var(TOKEN_VARIABLE).ok();
        let token = match (self.token_file, from_environment, self.no_token) {
            (None, _, true) if address.ip().is_loopback() => None,
            (None, _, true) => {
                return Err(format!(
                    "--no-token is for a loopback address alone; {} can be reached by others",
                    address.ip()
                ));
            }
            (Some(_), _, true) => {
                return Err("--token-file and --no-token exclude each other".into());
            }
            (Some(file), _, false) => {
                let token = std::fs::read_to_string(&file)
                    .map_err(|e| format!("cannot read the token from {}: {e}", file.display()))?;
                Some(token.trim_end_matches(['\r', '\n']).to_string())
            }
            (None, Some(token), false) => Some(token),
            (None, None, false) => {
                return Err(format!(
                    "a token is mandatory: give --token-file FILE or set {TOKEN_VARIABLE} \
                     (or --no-token, on a loopback address alone)"
                ));
            }
        };
        check_token(token.as_deref(), &self.limits)?;
        let RawArgs {
            limits,
            user,
            cgroup,
            ..
        } = self;
        Ok(ListenOptions {
            address,
            token,
            limits,
            user,
            cgroup,
        })
    }
}

fn check_token(token: Option<&str>, limits: &Limits) -> Result<(), String> {
    match token {
        Some("") => Err("the token is empty; one that can be guessed is none".into()),
        Some(token) if token.len() as u64 > limits.token_bytes => Err(format!(
            "the token has {} bytes; at most {} are allowed (--limit token_bytes=…)",
            token.len(),
            limits.token_bytes
        )),
        _ => Ok(()),
    }
}

/// Sets a limit from `NAME=VALUE`.
///
/// # Errors
/// A sentence for the operator.
fn parse_limit(limits: &mut Limits, assignment: &str) -> Result<(), String> {
    let (name, value) = assignment
        .split_once('=')
        .ok_or_else(|| format!("`{assignment}` is no NAME=VALUE; see --help for the limits"))?;
    let value = value
        .parse()
        .map_err(|_| format!("the limit {name} must be a whole number, not `{value}`"))?;
    set_limit_value(limits, name, value)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "`{text}` is no address and port; write 127.0.0.1:7000, [::1]:7000, or port 0 for any"
        )
    })
}

fn text(argument: &OsStr) -> Result<String, String> {
    let text = argument.to_str();
    text.map(Into::into)
        .ok_or_else(|| format!("the argument {argument:?} is no UTF-8"))
}

fn usage() -> String {
    let mut usage = USAGE.to_string();
    for row in LIMITS {
        usage += &format!("  {} = {}\n      {}\n", row.name, row.default, row.reason);
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<CliAction, String> {
        parse(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn a_token_is_mandatory_but_on_loopback() {
        assert!(
            parsed("--listen 127.0.0.1:0")
                .unwrap_err()
                .contains("token")
        );
        assert!(matches!(
            parsed("--listen 127.0.0.1:0 --no-token"),
            Ok(CliAction::Listen(_))
        ));
        assert!(matches!(
            parsed("--listen [::1]:0 --no-token"),
            Ok(CliAction::Listen(_))
        ));
        assert!(
            parsed("--listen 0.0.0.0:0 --no-token")
                .unwrap_err()
                .contains("loopback")
        );
        assert!(parsed("--listen 127.0.0.1:0 --no-token --token-file x").is_err());
    }

    #[test]
    fn limits_are_set_by_name() {
        let Ok(CliAction::Listen(listen)) =
            parsed("--listen 127.0.0.1:0 --no-token --limit timeout_s=9 --limit env_vars=3")
        else {
            panic!("refused")
        };
        assert_eq!((listen.limits.timeout_s, listen.limits.env_vars), (9, 3));
        for wrong in [
            "timeout_s",
            "timeout_s=x",
            "nothing=1",
            "chunk_bytes=0",
            "timeout_s=-1",
            "timeout_s=4294967297",
        ] {
            assert!(
                parsed(&format!("--listen 127.0.0.1:0 --no-token --limit {wrong}")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("", "--listen"),
            ("--listen", "--listen"),
            ("--listen here --no-token", "here"),
            ("--dance", "--dance"),
        ] {
            assert!(parsed(line).unwrap_err().contains(part), "{line}");
        }
    }
}
