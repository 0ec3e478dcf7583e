use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::file::{ListFiles, MakeDir, MoveFile, ReadFile, RemoveFile, Stat, Watch, WriteFile};
use crate::message::{about_operation, is_false, request};
use crate::process::{
    Attach, CloseContext, Detach, InputData, ListProcesses, Resize, SendSignal, Spawn, Stdin,
};
use crate::{
    ContextName, EnvVars, ErrorType, GuestPath, IdempotencyKey, Language, Limits, OpId,
    PackageSpec, Packages, Quiesce, Refresh, WireError,
};

/// Everything a client can ask of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Request {
    /// Is the agent there?
    Ping(Ping),
    /// Agrees on version 1 and its features.
    Hello(Hello),
    /// Runs code.
    Exec(Exec),
    /// Ends an operation.
    Cancel(Cancel),
    /// Lets an operation send more output.
    Credit(Credit),
    /// Installs packages.
    InstallPackages(InstallPackages),
    /// Makes the guest ready for its state to be saved.
    Quiesce(Quiesce),
    /// Makes a restored guest one of its own.
    Refresh(Refresh),
    /// Starts a program.
    Spawn(Spawn),
    /// Input of an operation.
    Stdin(Stdin),
    /// Input of an operation, as a raw frame.
    Data(InputData),
    /// Sends a signal.
    Signal(SendSignal),
    /// Gives a terminal another size.
    Resize(Resize),
    /// Leaves an operation to itself.
    Detach(Detach),
    /// Follows an operation that was left, or its record.
    Attach(Attach),
    /// Lists the programs that run.
    ListProcesses(ListProcesses),
    /// Ends a context's interpreter.
    CloseContext(CloseContext),
    /// Writes a file.
    WriteFile(WriteFile),
    /// Reads a file.
    ReadFile(ReadFile),
    /// Lists a directory.
    ListFiles(ListFiles),
    /// Tells what is at a path.
    Stat(Stat),
    /// Makes a directory.
    MakeDir(MakeDir),
    /// Gives a file another name.
    Move(MoveFile),
    /// Removes a file or a directory.
    Remove(RemoveFile),
    /// Tells what changes in a directory.
    Watch(Watch),
}

request! {
    /// Answered by `pong`.
    #[derive(Default)]
    Ping {}
}

request! {
    /// The first request of a version-1 connection; answered by `hello`.
    #[derive(Default)]
    Hello {
        /// The highest version that the client speaks; the answer holds the one that both do.
        protocol: u32,
        /// The secret of an agent that listens on TCP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Echoed in the answer: a client on a line that may hold stale bytes skips to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// Features the client wants, of those that the agent has. Unknown ones are ignored.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        features: Vec<String>,
    }
}

request! {
    /// Runs code; answered by output, then one `complete` or one `error`.
    Exec {
        /// What interprets the code.
        language: Language,
        /// The code, at most `code_bytes` bytes of UTF-8, without NUL.
        code: String,
        /// Seconds until the code is ended; 0 = the operator's `timeout_s`; none = `default_exec_timeout_s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// The process's environment, beside the agent's own few.
        #[serde(default, skip_serializing_if = "EnvVars::is_empty")]
        env_vars: EnvVars,
        /// Bytes of output that may be sent before the first `credit`; none = no flow control.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
        /// The context that the code runs in: an interpreter that keeps its state between execs, begun by
        /// the first that names it. None = an interpreter for this exec alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<ContextName>,
        /// Prepares: the code runs in the interpreter of this language that waits for the next exec (it is
        /// started, if none does), in a namespace of its own, and the interpreter goes on waiting.
        #[serde(default, skip_serializing_if = "is_false")]
        prepare: bool,
        /// Runs in an interpreter started now, even where one waits.
        #[serde(default, skip_serializing_if = "is_false")]
        fresh: bool,
        /// Standard input is sent by `stdin` or `data`; without it, it is empty.
        #[serde(default, skip_serializing_if = "is_false")]
        stdin: bool,
        /// The last expression's value is wanted, and other values that the code shows: as `result`s.
        #[serde(default, skip_serializing_if = "is_false")]
        display: bool,
        /// The working directory of this exec; none = the user's home, or where the context is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<GuestPath>,
        /// Lets it outlive its connection, and be found again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<IdempotencyKey>,
    }
}

about_operation! {
    /// Ends an operation: SIGINT, then SIGTERM, then SIGKILL. The operation itself answers, by its end.
    Cancel {}
}

about_operation! {
    /// Lets an operation that was started with `credit` send more bytes of output.
    Credit {
        /// Bytes more.
        bytes: u64,
    }
}

request! {
    /// Installs packages; answered as `exec` is. What is installed then comes as a `result`.
    InstallPackages {
        /// `python` (by uv) or `javascript` (by bun).
        language: Language,
        /// 1 to `packages` packages, each with a version specifier.
        packages: Packages,
        /// Seconds, 1 to `timeout_s`; none = `default_install_timeout_s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// As in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

/// A line that is no valid request: what to answer, and under which operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct RejectedRequest {
    /// The id of the operation, where the line was good enough to tell.
    pub op_id: Option<OpId>,
    /// The answer.
    pub error: WireError,
}

/// The two fields that say how to read the rest.
#[derive(Deserialize)]
struct Head {
    action: Option<String>,
    #[serde(default)]
    op_id: Option<OpId>,
}

/// The place of the field `action` in each request: read past here, written by [`Request`].
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActionTag;

impl<'de> Deserialize<'de> for ActionTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// The most of a parser's message that is sent back; it may quote what a peer sent.
const MESSAGE_CHARS: usize = 400;

/// All of a line's fields. What is wrong with one is looked for only where something is: in a fresh VM
/// under software emulation the search costs as much as all the rest.
fn fields<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).or_else(|_| explained(text))
}

/// The same, with the place of what is wrong.
#[cold]
fn explained<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let message = if path == "." {
            reason
        } else {
            format!("field `{path}`: {reason}")
        };
        message.chars().take(MESSAGE_CHARS).collect::<String>()
    })?;
    json.end()
        .map_err(|error| format!("a line holds one JSON object: {error}"))?;
    Ok(value)
}

/// The action of a line that begins with it, as [`encode_line`](crate::encode_line) writes one.
fn first_field(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(r#"{"action":""#)?;
    rest.split_once('"').map(|(action, _)| action)
}

fn unknown(action: &str) -> String {
    let shown = action.chars().take(80).flat_map(char::escape_default);
    let shown: String = shown.collect();
    format!("unknown action `{shown}`; known are {}", ACTIONS.join(", "))
}

/// Reads and names each request by its action, and tells its operation: one line for each.
macro_rules! actions {
    ($($action:literal => $variant:ident,)*) => {
        /// Every action, in the order that documentation lists them.
        pub const ACTIONS: &[&str] = &[$($action),*];

        impl Request {
            /// The request of this action; `None` where there is no such action.
            fn of(action: &str, text: &str) -> Option<Result<Self, String>> {
                Some(match action {
                    $($action => fields(text).map(Request::$variant),)*
                    _ => return None,
                })
            }

            /// The operation's id.
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
    /// Whether its `op_id` names an operation that runs, instead of beginning one.
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

    /// Reads one line. Checks form, not limits: see [`Exec::check`] and [`InstallPackages::check`].
    ///
    /// # Errors
    /// `protocol_error` for invalid UTF-8; `request_error`, naming the field, for all else.
    pub fn parse(line: &[u8]) -> Result<Self, RejectedRequest> {
        let refuse = |op_id, error_type, message: String| RejectedRequest {
            op_id,
            error: WireError::new(error_type, message),
        };
        let text = std::str::from_utf8(line).map_err(|e| {
            let at = e.valid_up_to();
            refuse(
                None,
                ErrorType::ProtocolError,
                format!("the line is no valid UTF-8 at byte {at}"),
            )
        })?;
        // serde would also read a struct from an array.
        if let Some(Ok(request)) = first_field(text).and_then(|action| Self::of(action, text)) {
            return Ok(request);
        }
        let object = text.trim_start().starts_with('{');
        let head = if object {
            fields(text)
        } else {
            Err("the line is no JSON object".to_string())
        };
        let head: Head = head.map_err(|message| refuse(None, ErrorType::RequestError, message))?;
        let parsed = match head.action.as_deref() {
            Some(action) => Self::of(action, text).unwrap_or_else(|| Err(unknown(action))),
            None => Err("missing field `action`".into()),
        };
        parsed.map_err(|message| refuse(head.op_id, ErrorType::RequestError, message))
    }
}

impl Exec {
    /// An exec with nothing but what it must have.
    #[must_use]
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            action: ActionTag,
            op_id: None,
            language,
            code: code.into(),
            timeout: None,
            env_vars: EnvVars::default(),
            credit: None,
            context: None,
            prepare: false,
            fresh: false,
            stdin: false,
            display: false,
            cwd: None,
            idempotency_key: None,
        }
    }

    /// Refuses what is past a limit.
    ///
    /// # Errors
    /// `code_error`, `env_var_error`, `path_error` for the working directory, or `request_error` for the
    /// timeout, the context, the key, and fields that exclude each other; with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let bytes = self.code.len() as u64;
        if bytes > limits.code_bytes {
            let message = format!(
                "the code has {bytes} bytes; at most {} are allowed",
                limits.code_bytes
            );
            return Err(WireError::new(ErrorType::CodeError, message));
        }
        if let Some(at) = self.code.bytes().position(|b| b == 0) {
            let message = format!(
                "the code holds a NUL character at byte {at}; no language takes one in its source"
            );
            return Err(WireError::new(ErrorType::CodeError, message));
        }
        self.timeout_s(limits)?;
        if let Some(context) = &self.context {
            context.check(limits)?;
        }
        if let Some(cwd) = &self.cwd {
            cwd.check(limits)?;
        }
        if let Some(key) = &self.idempotency_key {
            key.check(limits)?;
        }
        let exclusive = [
            ("context", self.context.is_some()),
            ("prepare", self.prepare),
            ("fresh", self.fresh),
        ];
        let given: Vec<&str> = exclusive
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
        if let [first, second, ..] = given[..] {
            let message = format!("fields `{first}` and `{second}`: only one of them can be given");
            return Err(WireError::new(ErrorType::RequestError, message));
        }
        self.env_vars.check(limits)
    }

    /// The timeout that holds, in seconds.
    ///
    /// # Errors
    /// `request_error` when it is out of range.
    pub fn timeout_s(&self, limits: &Limits) -> Result<u64, WireError> {
        match self.timeout {
            None => Ok(limits.default_exec_timeout_s.min(limits.timeout_s)),
            Some(0) => Ok(limits.timeout_s),
            Some(seconds) => timeout_in(seconds, 0, limits),
        }
    }
}

impl InstallPackages {
    /// The packages and the timeout in seconds, when all is allowed.
    ///
    /// # Errors
    /// `package_error`, or `request_error` for the timeout; with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(Vec<PackageSpec>, u64), WireError> {
        let specs = self.packages.parse(self.language, limits)?;
        let timeout = match self.timeout {
            None => limits.default_install_timeout_s.min(limits.timeout_s),
            Some(seconds) => timeout_in(seconds, 1, limits)?,
        };
        Ok((specs, timeout))
    }
}

/// A timeout in its range, in seconds.
pub(crate) fn timeout_in(seconds: i64, min: u64, limits: &Limits) -> Result<u64, WireError> {
    let max = limits.timeout_s;
    u64::try_from(seconds)
        .ok()
        .filter(|s| (min..=max).contains(s))
        .ok_or_else(|| {
            let message = format!("field `timeout`: {seconds} seconds; {min} to {max} are allowed");
            WireError::new(ErrorType::RequestError, message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, RejectedRequest> {
        Request::parse(line.as_bytes())
    }

    fn refusal(line: &str) -> String {
        let refused = parse(line).unwrap_err();
        assert_eq!(refused.error.error_type, ErrorType::RequestError, "{line}");
        refused.error.message
    }

    #[test]
    fn the_seeds_requests() {
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
    fn what_is_written_can_be_read() {
        let mut exec = Exec::new(Language::Shell, "echo");
        exec.op_id = OpId::try_from(7).ok();
        exec.env_vars = [("A", "b")].into_iter().collect();
        let request = Request::Exec(exec);
        let line = serde_json::to_string(&request).unwrap();
        assert!(line.contains(r#""action":"exec""#), "{line}");
        assert_eq!(parse(&line).unwrap(), request);
    }

    #[test]
    fn what_an_exec_runs_in_is_one_thing() {
        let exec = Exec::new(Language::Python, "1");
        let one = |context: Option<&str>, prepare, fresh| Exec {
            context: context.map(ContextName::new),
            prepare,
            fresh,
            ..exec.clone()
        };
        let limits = Limits::default();
        for allowed in [
            one(Some("a"), false, false),
            one(None, true, false),
            one(None, false, true),
        ] {
            allowed.check(&limits).unwrap();
            let line = serde_json::to_string(&Request::Exec(allowed.clone())).unwrap();
            assert_eq!(parse(&line).unwrap(), Request::Exec(allowed));
        }
        let refused = [
            one(Some("a"), true, false),
            one(None, true, true),
            one(Some(" "), false, false),
        ];
        for refused in refused {
            let error = refused.check(&limits).unwrap_err();
            assert_eq!(error.error_type, ErrorType::RequestError, "{error}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
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
            let message = refusal(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn a_refusal_carries_the_operation() {
        assert_eq!(
            parse(r#"{"action":"exec","op_id":4}"#).unwrap_err().op_id,
            OpId::try_from(4).ok()
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        let line = format!(r#"{{"action":"ping","x":{}"#, "[".repeat(1_000_000));
        assert!(parse(&line).is_err());
    }

    #[test]
    fn invalid_utf8_is_a_protocol_error() {
        let refused = Request::parse(b"{\"action\":\"\xff\"}").unwrap_err();
        assert_eq!(refused.error.error_type, ErrorType::ProtocolError);
    }

    #[test]
    fn a_message_does_not_echo_a_megabyte() {
        let line = format!(
            r#"{{"action":"exec","language":"{}","code":""}}"#,
            "x".repeat(1_000_000)
        );
        assert!(refusal(&line).chars().count() <= MESSAGE_CHARS);
    }

    #[test]
    fn code_at_the_limit_and_one_past_it() {
        let limits = Limits::default();
        let exec =
            |bytes: u64| Exec::new(Language::Shell, "x".repeat(usize::try_from(bytes).unwrap()));
        assert!(exec(2_097_152).check(&limits).is_ok());
        let error = exec(2_097_153).check(&limits).unwrap_err();
        assert_eq!(error.error_type, ErrorType::CodeError);
        assert!(
            error.message.contains("2097153") && error.message.contains("2097152"),
            "{error}"
        );
        assert!(Exec::new(Language::Shell, "a\0b").check(&limits).is_err());
    }

    #[test]
    fn exec_timeout_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let timeout = |t| {
            Exec {
                timeout: t,
                ..Exec::new(Language::Shell, "")
            }
            .timeout_s(&limits)
        };
        assert_eq!(timeout(None).unwrap(), 5);
        assert_eq!(timeout(Some(0)).unwrap(), 300);
        assert_eq!(timeout(Some(300)).unwrap(), 300);
        assert!(timeout(Some(301)).unwrap_err().message.contains("301"));
        assert!(timeout(Some(-1)).unwrap_err().message.contains("-1"));
    }

    #[test]
    fn install_timeout_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let install = |timeout| InstallPackages {
            action: ActionTag,
            op_id: None,
            language: Language::Python,
            packages: ["a==1"].into_iter().collect(),
            timeout,
            credit: None,
        };
        assert_eq!(install(None).check(&limits).unwrap().1, 300);
        assert_eq!(install(Some(1)).check(&limits).unwrap().1, 1);
        assert_eq!(install(Some(300)).check(&limits).unwrap().1, 300);
        assert!(install(Some(0)).check(&limits).is_err());
        assert!(install(Some(301)).check(&limits).is_err());
    }
}
