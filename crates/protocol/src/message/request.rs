use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::attach::{Attach, Detach};
use super::control::{Cancel, Credit, InputData, Resize, SendSignal, Stdin};
use super::exec::{CloseContext, Exec};
use super::file::{ListFiles, MakeDir, MoveFile, ReadFile, RemoveFile, Stat, Watch, WriteFile};
use super::hello::{Hello, Ping};
use super::install_packages::InstallPackages;
use super::process_list::ListProcesses;
use super::refresh::{Quiesce, Refresh};
use super::spawn::Spawn;
use crate::error::{ErrorType, WireError};
use crate::value::OpId;

/// A message to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Request {
    /// Asks whether the agent is there.
    Ping(Ping),
    /// Agrees on version 1 and its features.
    Hello(Hello),
    /// Runs code.
    Exec(Exec),
    /// Cancels an operation.
    Cancel(Cancel),
    /// Lets an operation send more output.
    Credit(Credit),
    /// Installs packages.
    InstallPackages(InstallPackages),
    /// Prepares the guest for a snapshot.
    Quiesce(Quiesce),
    /// Gives a restored guest its own time, randomness and identity.
    Refresh(Refresh),
    /// Starts a program.
    Spawn(Spawn),
    /// Input of an operation.
    Stdin(Stdin),
    /// Input of an operation, as a raw frame.
    Data(InputData),
    /// Sends a signal.
    Signal(SendSignal),
    /// Resizes a terminal.
    Resize(Resize),
    /// Stops following an operation, which continues.
    Detach(Detach),
    /// Follows a detached operation, or replays its record.
    Attach(Attach),
    /// Lists the running programs.
    ListProcesses(ListProcesses),
    /// Ends the interpreter of a context.
    CloseContext(CloseContext),
    /// Writes a file.
    WriteFile(WriteFile),
    /// Reads a file.
    ReadFile(ReadFile),
    /// Lists a directory.
    ListFiles(ListFiles),
    /// Returns the metadata of a file.
    Stat(Stat),
    /// Creates a directory.
    MakeDir(MakeDir),
    /// Renames a file or a directory.
    Move(MoveFile),
    /// Removes a file or a directory.
    Remove(RemoveFile),
    /// Reports changes in a directory.
    Watch(Watch),
}

/// A line that is not a valid request: the error to answer, and its operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct RejectedRequest {
    /// The id of the operation, if it could be read.
    pub op_id: Option<OpId>,
    /// The error to answer.
    pub error: WireError,
}

/// The two fields that determine how to parse the rest.
#[derive(Deserialize)]
struct Head {
    action: Option<String>,
    #[serde(default)]
    op_id: Option<OpId>,
}

/// The actions whose `op_id` names a running operation; see [`Request::targets_running_operation`].
const CONTROL_ACTIONS: [&str; 7] = [
    "stdin", "data", "signal", "resize", "cancel", "credit", "detach",
];

/// The maximum length of a parser's message that is sent back, in characters; it may quote the peer.
const MAX_MESSAGE_CHARS: usize = 400;

/// Parses all fields of a line.
///
/// The faulty field is determined only after parsing has failed: in a fresh VM under software
/// emulation, tracking it costs as much as all the rest.
fn parse_fields<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).or_else(|_| parse_and_locate_error(text))
}

/// Parses as [`parse_fields`] does; an error names the faulty field.
#[cold]
fn parse_and_locate_error<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();

        let message = if path == "." {
            reason
        } else {
            format!("field `{path}`: {reason}")
        };
        message.chars().take(MAX_MESSAGE_CHARS).collect::<String>()
    })?;

    // The line must hold nothing else.
    json.end()
        .map_err(|error| format!("a line must hold one JSON object: {error}"))?;
    Ok(value)
}

/// Returns the action of a line that starts with it, as [`encode_line`](crate::encode_line) writes it.
fn leading_action(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(r#"{"action":""#)?;
    rest.split_once('"').map(|(action, _)| action)
}

fn unknown_action(action: &str) -> String {
    let shown: String = action
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    format!(
        "unknown action `{shown}`; known actions are {}",
        ACTIONS.join(", ")
    )
}

/// Maps each action to its variant of [`Request`], one line for each: parses by action, lists the
/// actions, and returns the id of the operation.
macro_rules! actions {
    ($($action:literal => $variant:ident,)*) => {
        /// Every action, in the order that documentation lists them.
        pub const ACTIONS: &[&str] = &[$($action),*];

        impl Request {
            /// Parses the request of this action; `None` if there is no such action.
            fn parse_action(action: &str, text: &str) -> Option<Result<Self, String>> {
                Some(match action {
                    $($action => parse_fields(text).map(Request::$variant),)*
                    _ => return None,
                })
            }

            /// Returns the id of the operation.
            #[must_use]
            pub fn op_id(&self) -> Option<OpId> {
                match self {
                    $(Self::$variant(request) => request.op_id.into(),)*
                }
            }
        }
    };
}

actions! {
    "ping" => Ping,
    "hello" => Hello,
    "exec" => Exec,
    "spawn" => Spawn,
    "stdin" => Stdin,
    "data" => Data,
    "signal" => Signal,
    "resize" => Resize,
    "cancel" => Cancel,
    "credit" => Credit,
    "detach" => Detach,
    "attach" => Attach,
    "list_processes" => ListProcesses,
    "close_context" => CloseContext,
    "write_file" => WriteFile,
    "read_file" => ReadFile,
    "list_files" => ListFiles,
    "stat" => Stat,
    "make_dir" => MakeDir,
    "move" => Move,
    "remove" => Remove,
    "watch" => Watch,
    "install_packages" => InstallPackages,
    "quiesce" => Quiesce,
    "refresh" => Refresh,
}

impl Request {
    /// Returns whether `op_id` names a running operation that this request controls, instead of a new one
    /// that it starts.
    #[must_use]
    pub fn targets_running_operation(&self) -> bool {
        matches!(
            self,
            Self::Cancel(_)
                | Self::Credit(_)
                | Self::Stdin(_)
                | Self::Data(_)
                | Self::Signal(_)
                | Self::Resize(_)
                | Self::Detach(_)
        )
    }

    /// Parses one line, without its newline. This validates the form, not the limits; for those see
    /// [`Exec::check`] and [`InstallPackages::check`].
    ///
    /// # Errors
    /// `protocol_error` for invalid UTF-8; `request_error`, naming the field, for everything else.
    pub fn parse(line: &[u8]) -> Result<Self, RejectedRequest> {
        let reject = |op_id, error_type, message: String| RejectedRequest {
            op_id,
            error: WireError::new(error_type, message),
        };

        let text = std::str::from_utf8(line).map_err(|e| {
            let message = format!("the line is not valid UTF-8 (at byte {})", e.valid_up_to());
            reject(None, ErrorType::ProtocolError, message)
        })?;

        // The fast path: our own encoder writes the action first.
        let leading = leading_action(text);
        if let Some(Ok(request)) = leading.and_then(|action| Self::parse_action(action, text)) {
            return Ok(request);
        }

        // Everything else: find the action first, so that errors can name it and the operation.
        // Without the check of the first character, serde would also accept a struct as an array.
        let head = if text.trim_start().starts_with('{') {
            parse_fields(text)
        } else {
            Err("the line is not a JSON object".to_string())
        };
        let head: Head = head.map_err(|message| reject(None, ErrorType::RequestError, message))?;

        let parsed = match head.action.as_deref() {
            Some(action) => {
                Self::parse_action(action, text).unwrap_or_else(|| Err(unknown_action(action)))
            }
            None => Err("missing field `action`".into()),
        };
        // An error with an `op_id` ends that operation. A malformed request about an operation must not.
        let is_control = head
            .action
            .as_deref()
            .is_some_and(|action| CONTROL_ACTIONS.contains(&action));
        let op_id = head.op_id.filter(|_| !is_control);
        parsed.map_err(|message| reject(op_id, ErrorType::RequestError, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Language;

    fn parse(line: &str) -> Result<Request, RejectedRequest> {
        Request::parse(line.as_bytes())
    }

    fn rejection(line: &str) -> String {
        let rejected = parse(line).unwrap_err();
        assert_eq!(rejected.error.error_type, ErrorType::RequestError, "{line}");
        rejected.error.message
    }

    #[test]
    fn requests_of_the_seed_parse() {
        assert_eq!(
            parse(r#"{"action":"ping"}"#).unwrap(),
            Request::Ping(Ping::default())
        );

        let exec =
            r#"{"action":"exec","language":"python","code":"1","timeout":5,"env_vars":{"A":"b"}}"#;
        let Request::Exec(exec) = parse(exec).unwrap() else {
            panic!("not an exec")
        };
        assert_eq!(
            (exec.op_id, exec.timeout, exec.env_vars.len()),
            (None, Some(5), 1)
        );

        let install =
            r#"{"action":"install_packages","language":"python","packages":["a==1"],"timeout":9}"#;
        assert!(matches!(
            parse(install).unwrap(),
            Request::InstallPackages(_)
        ));
    }

    #[test]
    fn a_serialized_request_parses_back() {
        let mut exec = Exec::new(Language::Shell, "echo");
        exec.op_id = OpId::try_from(7).ok();
        exec.env_vars = [("A", "b")].into_iter().collect();

        let request = Request::Exec(exec);
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.contains(r#""action":"exec""#), "{line}");
        assert_eq!(parse(&line).unwrap(), request);
    }

    #[test]
    fn rejections_name_the_field() {
        let cases = [
            ("", "object"),
            ("[]", "object"),
            (r#"["ping"]"#, "object"),
            ("1", "object"),
            ("{", "EOF"),
            ("{}", "action"),
            (r#"{"action":5}"#, "action"),
            (r#"{"action":"dance"}"#, "dance"),
            (r#"{"action":"ping","x":1}"#, "`x`"),
            (r#"{"action":"exec","language":"python"}"#, "`code`"),
            (
                r#"{"action":"exec","language":"python","code":5}"#,
                "`code`",
            ),
            (
                r#"{"action":"exec","language":"ruby","code":""}"#,
                "`language`",
            ),
            (
                r#"{"action":"exec","language":"raw","code":"","timeout":1.5}"#,
                "`timeout`",
            ),
            (
                r#"{"action":"exec","language":"raw","code":"","timeout":"5"}"#,
                "`timeout`",
            ),
            (
                r#"{"action":"exec","language":"raw","code":"","env_vars":{"A":1}}"#,
                "`env_vars.A`",
            ),
            (
                r#"{"action":"exec","language":"raw","code":"","env_vars":[]}"#,
                "`env_vars`",
            ),
            (r#"{"action":"cancel"}"#, "`op_id`"),
            (r#"{"action":"ping","op_id":-1}"#, "`op_id`"),
            (r#"{"action":"ping"}{}"#, "one JSON object"),
        ];

        for (line, part) in cases {
            let message = rejection(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn a_rejection_carries_the_operation() {
        assert_eq!(
            parse(r#"{"action":"exec","op_id":4}"#).unwrap_err().op_id,
            OpId::try_from(4).ok()
        );
    }

    #[test]
    fn a_rejected_control_request_does_not_end_its_operation() {
        for action in CONTROL_ACTIONS {
            let line = format!(r#"{{"action":"{action}","op_id":4,"x":1}}"#);
            assert_eq!(parse(&line).unwrap_err().op_id, None, "{line}");
        }
    }

    #[test]
    fn deep_nesting_is_rejected() {
        let line = format!(r#"{{"action":"ping","x":{}"#, "[".repeat(1_000_000));
        assert!(parse(&line).is_err());
    }

    #[test]
    fn invalid_utf8_is_a_protocol_error() {
        let rejected = Request::parse(b"{\"action\":\"\xff\"}").unwrap_err();
        assert_eq!(rejected.error.error_type, ErrorType::ProtocolError);
    }

    #[test]
    fn a_message_does_not_echo_a_megabyte() {
        let line = format!(
            r#"{{"action":"exec","language":"{}","code":""}}"#,
            "x".repeat(1_000_000)
        );
        assert!(rejection(&line).chars().count() <= MAX_MESSAGE_CHARS);
    }
}
