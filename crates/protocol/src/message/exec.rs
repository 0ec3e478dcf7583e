//! Running code: `exec` and the contexts it can run in.

use super::envelope::{ActionTag, is_false, request, response};
use crate::error::{ErrorType, WireError};
use crate::limits::Limits;
use crate::value::{ContextName, EnvVars, GuestPath, IdempotencyKey, Language};

request! {
    /// Runs code. The agent answers with output, then one `complete` or one `error`.
    Exec {
        /// The language of the code.
        language: Language,
        /// The code, at most `code_bytes` bytes of UTF-8, without NUL.
        code: String,
        /// The arguments of the program, without its name: at most `args`, and `argv_bytes` bytes in total. In a context
        /// they replace those of earlier execs; without any, those stay.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Seconds until the code is stopped; 0 = the operator's `timeout_s`; none = `default_exec_timeout_s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// Environment variables of the process, in addition to those that the agent sets.
        #[serde(default, skip_serializing_if = "EnvVars::is_empty")]
        env_vars: EnvVars,
        /// Bytes of output that may be sent before the first `credit`; none = no flow control.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
        /// The context that the code runs in: an interpreter that keeps its state between execs, started by
        /// the first exec that names it. None = a separate interpreter for this exec.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<ContextName>,
        /// Prepares the waiting interpreter: the code runs in the interpreter of this language that waits for
        /// the next exec (started if there is none), in a separate namespace, and the interpreter keeps
        /// waiting.
        #[serde(default, skip_serializing_if = "is_false")]
        prepare: bool,
        /// Starts a new interpreter even if one waits.
        #[serde(default, skip_serializing_if = "is_false")]
        fresh: bool,
        /// The client sends standard input by `stdin` or `data`. Otherwise it is empty.
        #[serde(default, skip_serializing_if = "is_false")]
        stdin: bool,
        /// Requests the value of the last expression and other displayed values, as `result`s.
        #[serde(default, skip_serializing_if = "is_false")]
        display: bool,
        /// The working directory of this exec; none = the user's home, or that of the context.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<GuestPath>,
        /// Lets the operation outlive its connection, so that `attach` can find it by this key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<IdempotencyKey>,
    }
}

response! {
    /// An exec waits for the previous one in its context; `started` reports when it starts.
    Queued {}
}

request! {
    /// Ends the interpreter of a context, with all that runs in it. The agent answers with `done`, also if
    /// there is no context of that name.
    CloseContext {
        /// The name of the context.
        context: ContextName,
    }
}

impl Exec {
    /// Creates an exec with only the required fields.
    #[must_use]
    pub fn new(language: Language, code: impl Into<String>) -> Self {
        Self {
            action: ActionTag,
            op_id: None,
            language,
            code: code.into(),
            args: Vec::new(),
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

    /// Validates the exec against the limits.
    ///
    /// # Errors
    /// `code_error`, `env_var_error`, `path_error` for the working directory, or `request_error` for the
    /// arguments, the timeout, the context, the key, and fields that exclude each other; with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        self.check_code(limits)?;
        self.check_args(limits)?;
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

        self.check_exclusive_fields()?;
        self.env_vars.check(limits)
    }

    fn check_code(&self, limits: &Limits) -> Result<(), WireError> {
        let bytes = self.code.len() as u64;
        let max = limits.code_bytes;
        if bytes > max {
            let message = format!("the code has {bytes} bytes; at most {max} are allowed");
            return Err(WireError::new(ErrorType::CodeError, message));
        }

        if let Some(at) = self.code.bytes().position(|b| b == 0) {
            let message = format!(
                "the code contains a NUL character at byte {at}; no language accepts one in source code"
            );
            return Err(WireError::new(ErrorType::CodeError, message));
        }
        Ok(())
    }

    fn check_args(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));

        let count = self.args.len() as u64;
        if count > limits.args {
            let max = limits.args;
            return reject(format!(
                "field `args`: {count} arguments; at most {max} are allowed"
            ));
        }
        if self.args.iter().any(|argument| argument.contains('\0')) {
            return reject(
                "field `args`: an argument contains a NUL character, which no program accepts"
                    .into(),
            );
        }

        // Each argument counts with its terminating NUL.
        let bytes: u64 = self.args.iter().map(|a| a.len() as u64 + 1).sum();
        let max = limits.argv_bytes;
        if bytes > max {
            return reject(format!(
                "field `args`: {bytes} bytes; at most {max} are allowed"
            ));
        }
        Ok(())
    }

    /// Rejects more than one choice of the interpreter that runs the code.
    fn check_exclusive_fields(&self) -> Result<(), WireError> {
        let fields = [
            ("context", self.context.is_some()),
            ("prepare", self.prepare),
            ("fresh", self.fresh),
        ];
        let given: Vec<&str> = fields
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();

        if let [first, second, ..] = given[..] {
            let message =
                format!("fields `{first}` and `{second}` exclude each other; set only one");
            return Err(WireError::new(ErrorType::RequestError, message));
        }

        if self.prepare && !self.args.is_empty() {
            let message =
                "fields `args` and `prepare` exclude each other; arguments would not stay";
            return Err(WireError::new(ErrorType::RequestError, message));
        }
        Ok(())
    }

    /// Returns the effective timeout, in seconds.
    ///
    /// # Errors
    /// `request_error` if it is out of range.
    pub fn timeout_s(&self, limits: &Limits) -> Result<u64, WireError> {
        match self.timeout {
            None => Ok(limits.default_exec_timeout_s.min(limits.timeout_s)),
            Some(0) => Ok(limits.timeout_s),
            Some(seconds) => limits.check_timeout(seconds, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    #[test]
    fn interpreter_choices_exclude_each_other() {
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
            let parsed = Request::parse(line.as_bytes()).unwrap();
            assert_eq!(parsed, Request::Exec(allowed));
        }

        let rejected = [
            one(Some("a"), true, false),
            one(None, true, true),
            one(Some(" "), false, false),
        ];
        for exec in rejected {
            let error = exec.check(&limits).unwrap_err();
            assert_eq!(error.error_type, ErrorType::RequestError, "{error}");
        }
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
    fn args_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let with = |args: Vec<String>| Exec {
            args,
            ..Exec::new(Language::Shell, "")
        };
        let rejection = |args| with(args).check(&limits).unwrap_err().message;
        let long = |bytes: u64| vec!["x".repeat(usize::try_from(bytes).unwrap() - 1)];

        with(long(limits.argv_bytes)).check(&limits).unwrap();
        assert!(rejection(long(limits.argv_bytes + 1)).contains("131073"));
        with(vec![String::new(); 1024]).check(&limits).unwrap();
        assert!(rejection(vec![String::new(); 1025]).contains("1025"));
        assert!(rejection(vec!["a\0b".into()]).contains("NUL"));

        let prepared = Exec {
            prepare: true,
            ..with(vec!["a".into()])
        };
        assert!(prepared.check(&limits).is_err());

        // No arguments are left out of the message.
        let line = serde_json::to_string(&Request::Exec(with(Vec::new()))).unwrap();
        assert!(!line.contains("args"), "{line}");
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
}
