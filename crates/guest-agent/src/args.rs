//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use fumehood_protocol::{LIMITS, Limits};
use lexopt::prelude::{Long, Short, ValueExt};

use crate::process::User;
use crate::settings::{VERSION, set_limit_value};

/// The action that the command line requests.
#[derive(Debug)]
pub(crate) enum CliAction {
    /// Print this text and exit.
    Print(String),
    /// Serve TCP.
    Listen(Box<ListenOptions>),
}

/// How to serve TCP.
#[derive(Debug)]
pub(crate) struct ListenOptions {
    /// The address to listen on; port 0 takes any free port.
    pub(crate) address: SocketAddr,
    /// The token that every client must send. `None` is allowed only on a loopback address.
    pub(crate) token: Option<String>,
    /// Maxima for what clients request.
    pub(crate) limits: Limits,
    /// The user that programs run as. `None`: the agent's user.
    pub(crate) user: Option<User>,
    /// A cgroup (version 2) directory that belongs to the agent, for the programs.
    pub(crate) cgroup: Option<PathBuf>,
}

const TOKEN_VARIABLE: &str = "FUMEHOOD_AGENT_TOKEN";

const USAGE: &str = "\
Run code that clients send, as the user who starts this program. Use it only inside a machine that may be damaged.

Usage: fumehood-agent --listen ADDRESS:PORT [OPTIONS]

Options:
  --listen ADDRESS:PORT  Address to serve on; port 0 takes a free one. Prints `listening on ADDRESS:PORT`
  --token-file FILE      Read the token that every client must send in `hello` from FILE;
                         default: the environment variable FUMEHOOD_AGENT_TOKEN
  --no-token             Serve every client; only on a loopback address
  --limit NAME=VALUE     Set a limit; may be repeated. The limits and their defaults are listed below
  --user NAME_OR_UID     Run programs as this user; the agent must be root
  --cgroup DIR           Make a cgroup for each program in DIR, a cgroup v2 directory that belongs to the agent
  --help, --version      Print this help, or the version

Limits:
";

/// Parses the command line.
///
/// # Errors
/// Returns a message for the operator.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<CliAction, String> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut raw = RawArgs::default();

    while let Some(argument) = parser.next().map_err(with_help)? {
        match argument {
            Long("help") | Short('h') => return Ok(CliAction::Print(usage())),
            Long("version") | Short('V') => {
                return Ok(CliAction::Print(format!("fumehood-agent {VERSION}\n")));
            }
            Long("listen") => raw.address = Some(parse_address(&value(&mut parser)?)?),
            Long("token-file") => raw.token_file = Some(value(&mut parser)?.into()),
            Long("no-token") => raw.no_token = true,
            Long("limit") => parse_limit(&mut raw.limits, &value(&mut parser)?)?,
            Long("user") => raw.user = Some(User::lookup(&value(&mut parser)?)?),
            Long("cgroup") => raw.cgroup = Some(value(&mut parser)?.into()),
            other => return Err(with_help(other.unexpected())),
        }
    }

    let options = raw.validate()?;

    Ok(CliAction::Listen(Box::new(options)))
}

fn with_help(error: lexopt::Error) -> String {
    format!("{error}; see --help")
}

/// Returns the value of the current option.
fn value(parser: &mut lexopt::Parser) -> Result<String, String> {
    let value = parser.value().and_then(|value| value.string());
    value.map_err(with_help)
}

/// The command line after parsing, before validation.
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
            .ok_or("missing option --listen ADDRESS:PORT; see --help")?;

        let from_environment = std::env::var(TOKEN_VARIABLE).ok();

        // Only a loopback address may be served without a token.
        let token = match (self.token_file, from_environment, self.no_token) {
            (None, _, true) if address.ip().is_loopback() => None,
            (None, _, true) => {
                return Err(format!(
                    "--no-token is only allowed on a loopback address; other machines may reach {}",
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
                    "missing token: pass --token-file FILE or set {TOKEN_VARIABLE} \
                     (or use --no-token, only on a loopback address)"
                ));
            }
        };

        check_token(token.as_deref(), &self.limits)?;

        Ok(ListenOptions {
            address,
            token,
            limits: self.limits,
            user: self.user,
            cgroup: self.cgroup,
        })
    }
}

fn check_token(token: Option<&str>, limits: &Limits) -> Result<(), String> {
    match token {
        Some("") => Err("the token is empty; use one that cannot be guessed".into()),
        Some(token) if token.len() as u64 > limits.token_bytes => Err(format!(
            "the token has {} bytes, of at most {} (--limit token_bytes=…)",
            token.len(),
            limits.token_bytes
        )),
        _ => Ok(()),
    }
}

/// Sets a limit from `NAME=VALUE`.
///
/// # Errors
/// Returns a message for the operator.
fn parse_limit(limits: &mut Limits, assignment: &str) -> Result<(), String> {
    let (name, value) = assignment
        .split_once('=')
        .ok_or_else(|| format!("`{assignment}` is not NAME=VALUE; see --help for the limits"))?;

    let value = value
        .parse()
        .map_err(|_| format!("the limit {name} must be a whole number, not `{value}`"))?;

    set_limit_value(limits, name, value)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "invalid address `{text}`; write 127.0.0.1:7000, [::1]:7000, or port 0 for any free port"
        )
    })
}

fn usage() -> String {
    let mut usage = USAGE.to_string();
    for limit in LIMITS {
        usage += &format!(
            "  {} = {}\n      {}\n",
            limit.name, limit.default, limit.reason
        );
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
    fn token_is_required_except_on_loopback() {
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
            panic!("rejected")
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
    fn errors_name_the_argument() {
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
