use serde::{Deserialize, Serialize};

use crate::message::{about_operation, is_false, request, response};
use crate::{
    ActionTag, Chunk, ContextName, EnvVars, ErrorType, GuestPath, IdempotencyKey, Limits, OpId,
    WireError,
};

request! {
    /// Starts a program; answered by `started`, output, and one `complete`, or by one `error`.
    Spawn {
        /// The program and its arguments. One without `/` is looked for in the directories of `PATH`.
        argv: Vec<String>,
        /// The process's environment, beside the agent's own few.
        #[serde(default, skip_serializing_if = "EnvVars::is_empty")]
        env_vars: EnvVars,
        /// The working directory; none = the user's home.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<GuestPath>,
        /// Who it runs as; none = the sandbox user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<User>,
        /// A terminal of this size in place of pipes: its output is `stdout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pty: Option<PtySize>,
        /// Standard input is sent by `stdin` or `data`; without it, it is empty.
        #[serde(default, skip_serializing_if = "is_false")]
        stdin: bool,
        /// A word for people, shown by `list_processes`; at most `tag_bytes`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Seconds until it is ended, at most `timeout_s`; none or 0 = it may run on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// Bytes of output that may be sent before the first `credit`; none = no flow control.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
        /// Lets it outlive its connection, and be found again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<IdempotencyKey>,
    }
}

/// Who a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// The sandbox user, without privileges.
    #[default]
    User,
    /// The guest's root; only where the operator's limit `allow_root` is 1.
    Root,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

about_operation! {
    /// Input of an operation: a program's standard input, or a file's content. Not answered, but by `credit`.
    Stdin {
        /// The bytes: at most `chunk_bytes`, and no more in all than credit was given for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chunk: Option<Chunk>,
        /// Nothing follows.
        #[serde(default, skip_serializing_if = "is_false")]
        eof: bool,
    }
}

about_operation! {
    /// The same as a raw frame: exactly `len` bytes follow this line's newline. Only where
    /// [`FEATURE_RAW_FRAMES`](crate::FEATURE_RAW_FRAMES) holds.
    InputData {
        /// How many bytes follow: at most `chunk_bytes`.
        len: u64,
        /// Nothing follows after them.
        #[serde(default, skip_serializing_if = "is_false")]
        eof: bool,
    }
}

about_operation! {
    /// Sends a signal to an operation's process group. Not answered.
    SendSignal {
        /// Its number, 1 to 31, or its name, as `INT` or `SIGINT`.
        signal: SignalName,
    }
}

/// A signal by its number or its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum SignalName {
    /// As in signal(7), 1 to 31.
    Number(i32),
    /// As in signal(7), with or without `SIG`.
    Name(String),
}

/// The signals that have a name here: those that have one number on x86-64 and on ARM.
const SIGNALS: [(&str, i32); 30] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const LAST_SIGNAL: i32 = 31;

impl SignalName {
    /// Its number.
    ///
    /// # Errors
    /// `request_error`: there is no such signal.
    pub fn number(&self) -> Result<i32, WireError> {
        let found = match self {
            Self::Number(number) => Some(*number).filter(|n| (1..=LAST_SIGNAL).contains(n)),
            Self::Name(name) => {
                let short = name.strip_prefix("SIG").unwrap_or(name);
                let known = SIGNALS.iter().find(|(known, _)| *known == short);
                known.map(|(_, number)| *number)
            }
        };
        found.ok_or_else(|| {
            let shown = match self {
                Self::Number(number) => number.to_string(),
                Self::Name(name) => name.chars().take(20).flat_map(char::escape_default).collect(),
            };
            let message = format!(
                "field `signal`: there is no signal `{shown}`; use a number of 1 to {LAST_SIGNAL}, or a name such as TERM"
            );
            WireError::new(ErrorType::RequestError, message)
        })
    }
}

about_operation! {
    /// Gives an operation's terminal another size. Not answered; without a terminal it does nothing.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        cols: u16,
    }
}

about_operation! {
    /// Leaves an operation that has an `idempotency_key` to itself; it goes on, and is answered by `detached`.
    Detach {}
}

request! {
    /// Follows the operation of this key, from its piece of output `from_seq` on: answered by `attached`,
    /// output, and one `complete`. Whoever followed it before gets `detached`.
    Attach {
        /// The operation's.
        idempotency_key: IdempotencyKey,
        /// The first piece of output that is wanted.
        #[serde(default)]
        from_seq: u64,
        /// As in `exec`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
    }
}

request! {
    /// Answered by `processes`.
    ListProcesses {}
}

request! {
    /// Ends a context's interpreter, with all that runs in it; answered by `done`, also where there is none of
    /// that name.
    CloseContext {
        /// Its name.
        context: ContextName,
    }
}

response! {
    /// A program has been started.
    Started {
        /// Its process id in the guest.
        pid: i32,
    }
}

response! {
    /// An exec waits for the one before it in its context; `started` says when it begins.
    Queued {}
}

response! {
    /// More input may be sent, beside the first `input_bytes`.
    InputCredit {
        /// Bytes more.
        bytes: u64,
    }
}

response! {
    /// An operation goes on without this client, and can be attached to.
    Detached {}
}

response! {
    /// An operation is followed from here on.
    Attached {
        /// The first piece of output that comes: later than the one that was asked for where that is not
        /// kept any more.
        seq: u64,
        /// Its process id in the guest, while it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// Bytes of input that have come so far, where it takes any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_bytes: Option<u64>,
        /// Bytes of input that may be sent now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_credit: Option<u64>,
    }
}

response! {
    /// The programs that the agent has started and that have not ended.
    Processes {
        /// The oldest first.
        processes: Vec<ProcessInfo>,
    }
}

/// A program that the agent has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessInfo {
    /// Its process id in the guest.
    pub pid: i32,
    /// What it is.
    pub kind: ProcessKind,
    /// What is run, cut where it is long.
    pub command: String,
    /// The context that it is the interpreter of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The word it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The key it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// Somebody follows it.
    pub attached: bool,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// All processes that belong to it, itself included; none where the guest cannot tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<i32>,
}

/// What a program was started by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ProcessKind {
    /// An exec that has its interpreter for itself.
    Exec,
    /// A context's interpreter, whether an exec runs in it or not.
    Context,
    /// A `spawn`.
    Spawn,
    /// An `install_packages`.
    Install,
}

impl Spawn {
    /// A program that is looked for in `PATH`, with nothing but its arguments.
    #[must_use]
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            action: ActionTag,
            op_id: None,
            argv: argv.into_iter().map(Into::into).collect(),
            env_vars: EnvVars::default(),
            cwd: None,
            user: None,
            pty: None,
            stdin: false,
            tag: None,
            timeout: None,
            credit: None,
            idempotency_key: None,
        }
    }

    /// Refuses what is past a limit.
    ///
    /// # Errors
    /// `request_error`, `env_var_error` or `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        let refuse = |message: String| Err(WireError::new(ErrorType::RequestError, message));
        let bytes: u64 = self.argv.iter().map(|a| a.len() as u64 + 1).sum();
        if self.argv.first().is_none_or(String::is_empty) {
            return refuse("field `argv`: it names no program; give at least one word".into());
        }
        if self.argv.iter().any(|a| a.contains('\0')) {
            return refuse(
                "field `argv`: a word holds a NUL character; no program takes one".into(),
            );
        }
        if bytes > limits.argv_bytes {
            let most = limits.argv_bytes;
            return refuse(format!(
                "field `argv`: {bytes} bytes; at most {most} are allowed"
            ));
        }
        if let Some(tag) = &self.tag {
            let (bytes, most) = (tag.len() as u64, limits.tag_bytes);
            if bytes > most {
                return refuse(format!(
                    "field `tag`: {bytes} bytes; at most {most} are allowed"
                ));
            }
        }
        if self.user == Some(User::Root) && limits.allow_root == 0 {
            return refuse(
                "field `user`: root is not allowed in this sandbox (limit `allow_root` is 0)"
                    .into(),
            );
        }
        if let Some(cwd) = &self.cwd {
            cwd.check(limits)?;
        }
        if let Some(key) = &self.idempotency_key {
            key.check(limits)?;
        }
        self.timeout_s(limits)?;
        self.env_vars.check(limits)
    }

    /// The timeout that holds, in seconds; none = it may run on.
    ///
    /// # Errors
    /// `request_error` when it is out of range.
    pub fn timeout_s(&self, limits: &Limits) -> Result<Option<u64>, WireError> {
        match self.timeout {
            None | Some(0) => Ok(None),
            Some(seconds) => crate::request::timeout_in(seconds, 1, limits).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Spawn)) -> String {
        let mut spawn = Spawn::new(["true"]);
        spawn.check(&Limits::default()).unwrap();
        change(&mut spawn);
        let refused = spawn.check(&Limits::default());
        refused.map_err(|error| error.message).unwrap_err()
    }

    #[test]
    fn spawns_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let long = |bytes: u64| Spawn::new(["x".repeat(usize::try_from(bytes).unwrap() - 1)]);
        assert!(long(limits.argv_bytes).check(&limits).is_ok());
        assert!(long(limits.argv_bytes + 1).check(&limits).is_err());
        assert!(refusal(|s| s.argv.clear()).contains("argv"));
        assert!(refusal(|s| s.argv[0].clear()).contains("argv"));
        assert!(refusal(|s| s.argv.push("\0".into())).contains("NUL"));
        assert!(refusal(|s| s.tag = Some("x".repeat(129))).contains("129"));
        assert!(refusal(|s| s.user = Some(User::Root)).contains("allow_root"));
        assert!(refusal(|s| s.cwd = Some(GuestPath::new(""))).contains("path"));
        assert!(refusal(|s| s.timeout = Some(301)).contains("301"));
        assert!(refusal(|s| s.idempotency_key = Some(IdempotencyKey::new(""))).contains("key"));
    }

    #[test]
    fn signals_have_numbers_and_names() {
        let number = |name: &str| SignalName::Name(name.into()).number();
        assert_eq!(
            (number("INT").unwrap(), number("SIGTERM").unwrap()),
            (2, 15)
        );
        assert_eq!(SignalName::Number(31).number().unwrap(), 31);
        for none in [
            SignalName::Number(0),
            SignalName::Number(32),
            SignalName::Name("DANCE".into()),
        ] {
            assert_eq!(
                none.number().unwrap_err().error_type,
                ErrorType::RequestError
            );
        }
    }
}
