use serde::{Deserialize, Serialize};

use super::attach::{Attached, Detached};
use super::complete::{Complete, ErrorMessage};
use super::control::InputCredit;
use super::exec::Queued;
use super::file::{Change, Done, Entries, Entry, Transferred, Watching};
use super::hello::{HelloReply, Pong};
use super::output::{Data, Output};
use super::process_list::Processes;
use super::refresh::{Quiesced, Refreshed};
use super::spawn::Started;
use crate::error::{ErrorType, WireError};

/// A message from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// The answer to `ping`.
    Pong(Pong),
    /// The answer to `hello`.
    Hello(HelloReply),
    /// Standard output of a program.
    Stdout(Output),
    /// Standard error of a program.
    Stderr(Output),
    /// A part of a line of JSON: a value that the code displays, as an object from MIME types to data.
    Result(Output),
    /// Content of a file.
    File(Output),
    /// Announces a raw frame of output.
    Data(Data),
    /// The end of an operation that ran.
    Complete(Complete),
    /// The end of an operation that was rejected.
    Error(ErrorMessage),
    /// The answer to `quiesce`.
    Quiesced(Quiesced),
    /// The answer to `refresh`.
    Refreshed(Refreshed),
    /// A program has started.
    Started(Started),
    /// An exec waits for its context.
    Queued(Queued),
    /// The client may send more input.
    Credit(InputCredit),
    /// An operation continues without this client.
    Detached(Detached),
    /// This client follows an operation from here on.
    Attached(Attached),
    /// The running programs.
    Processes(Processes),
    /// The file at a path.
    Entry(Entry),
    /// Entries of a directory.
    Entries(Entries),
    /// The end of an operation that has no further result.
    Done(Done),
    /// The end of a file transfer.
    Transferred(Transferred),
    /// Changes are reported from here on.
    Watching(Watching),
    /// A file has changed.
    Change(Change),
}

/// The maximum length of a parser's message in an error, in characters.
const MAX_REASON_CHARS: usize = 400;

impl Response {
    /// Parses one line that an agent sent.
    ///
    /// # Errors
    /// `protocol_error`: the line is not a response of this protocol.
    pub fn parse(line: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(line).map_err(|error| {
            // The reason may quote what the agent sent.
            let reason: String = error.to_string().chars().take(MAX_REASON_CHARS).collect();
            let message = format!("the agent sent an invalid response: {reason}");
            WireError::new(ErrorType::ProtocolError, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_match_the_seeds_format() {
        let pong = Response::Pong(Pong {
            op_id: None,
            version: "0.1.0".into(),
        });
        assert_eq!(
            serde_json::to_string(&pong).unwrap(),
            r#"{"type":"pong","version":"0.1.0"}"#
        );

        let output = Response::Stdout(Output {
            op_id: None,
            seq: None,
            chunk: b"hi\n".to_vec().into(),
        });
        assert_eq!(
            serde_json::to_string(&output).unwrap(),
            r#"{"type":"stdout","chunk":"hi\n"}"#
        );
    }

    #[test]
    fn a_minimal_complete_of_version_0_parses() {
        let line =
            br#"{"type":"complete","exit_code":0,"execution_time_ms":3,"ended_by":"exited"}"#;
        assert!(matches!(
            Response::parse(line).unwrap(),
            Response::Complete(_)
        ));
    }

    #[test]
    fn invalid_responses_are_rejected() {
        for line in ["", "{}", r#"{"type":"dance"}"#, r#"{"type":"pong"}"#] {
            assert!(Response::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
