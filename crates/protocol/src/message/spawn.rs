//! Running programs: `spawn`.

use serde::{Deserialize, Serialize};

use super::envelope::{ActionTag, is_false, request, response};
use crate::error::{ErrorType, WireError};
use crate::limits::Limits;
use crate::value::{EnvVars, GuestPath, IdempotencyKey};

request! {
    /// Starts a program. The agent answers with `started`, output, and one `complete`, or with one `error`.
    Spawn {
        /// The program and its arguments. A program without `/` is searched in the directories of `PATH`.
        argv: Vec<String>,
        /// Environment variables of the process, in addition to those that the agent sets.
        #[serde(default, skip_serializing_if = "EnvVars::is_empty")]
        env_vars: EnvVars,
        /// The working directory; none = the user's home.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<GuestPath>,
        /// The user that the program runs as; none = the sandbox user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<User>,
        /// A terminal of this size instead of pipes. Its output is `stdout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pty: Option<PtySize>,
        /// The client sends standard input by `stdin` or `data`. Otherwise it is empty.
        #[serde(default, skip_serializing_if = "is_false")]
        stdin: bool,
        /// A label for people, shown by `list_processes`; at most `tag_bytes`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Seconds until the program is stopped, at most `timeout_s`; none or 0 = no timeout.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<i64>,
        /// Bytes of output that may be sent before the first `credit`; none = no flow control.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        credit: Option<u64>,
        /// Lets the operation outlive its connection, so that `attach` can find it by this key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<IdempotencyKey>,
    }
}

response! {
    /// The program has started.
    Started {
        /// The process id in the guest.
        pid: i32,
    }
}

/// The user that a program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// The sandbox user, without privileges.
    #[default]
    User,
    /// The guest's root; only if the operator's limit `allow_root` is 1.
    Root,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub cols: u16,
}

impl Spawn {
    /// Creates a spawn with only its arguments; the program is searched in `PATH`.
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

    /// Validates the spawn against the limits.
    ///
    /// # Errors
    /// `request_error`, `env_var_error` or `path_error`, with limit and actual figure.
    pub fn check(&self, limits: &Limits) -> Result<(), WireError> {
        self.check_argv(limits)?;
        self.check_tag(limits)?;

        if self.user == Some(User::Root) && limits.allow_root == 0 {
            return Err(WireError::new(
                ErrorType::RequestError,
                "field `user`: root is not allowed in this sandbox (limit `allow_root` is 0)",
            ));
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

    fn check_argv(&self, limits: &Limits) -> Result<(), WireError> {
        let reject = |message: String| Err(WireError::new(ErrorType::RequestError, message));

        if self.argv.first().is_none_or(String::is_empty) {
            return reject("field `argv`: no program; give at least one non-empty argument".into());
        }
        if self.argv.iter().any(|a| a.contains('\0')) {
            return reject(
                "field `argv`: an argument contains a NUL character, which no program accepts"
                    .into(),
            );
        }

        // Each argument counts with its terminating NUL.
        let bytes: u64 = self.argv.iter().map(|a| a.len() as u64 + 1).sum();
        let max = limits.argv_bytes;
        if bytes > max {
            return reject(format!(
                "field `argv`: {bytes} bytes; at most {max} are allowed"
            ));
        }
        Ok(())
    }

    fn check_tag(&self, limits: &Limits) -> Result<(), WireError> {
        let bytes = self.tag.as_ref().map_or(0, |tag| tag.len() as u64);
        let max = limits.tag_bytes;
        if bytes > max {
            let message = format!("field `tag`: {bytes} bytes; at most {max} are allowed");
            return Err(WireError::new(ErrorType::RequestError, message));
        }
        Ok(())
    }

    /// Returns the effective timeout in seconds, or `None` if there is none.
    ///
    /// # Errors
    /// `request_error` if it is out of range.
    pub fn timeout_s(&self, limits: &Limits) -> Result<Option<u64>, WireError> {
        match self.timeout {
            None | Some(0) => Ok(None),
            Some(seconds) => limits.check_timeout(seconds, 1).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(change: impl FnOnce(&mut Spawn)) -> String {
        let mut spawn = Spawn::new(["true"]);
        spawn.check(&Limits::default()).unwrap();
        change(&mut spawn);

        let result = spawn.check(&Limits::default());
        result.map_err(|error| error.message).unwrap_err()
    }

    #[test]
    fn spawns_at_the_limits_and_past_them() {
        let limits = Limits::default();
        let long = |bytes: u64| Spawn::new(["x".repeat(usize::try_from(bytes).unwrap() - 1)]);
        assert!(long(limits.argv_bytes).check(&limits).is_ok());
        assert!(long(limits.argv_bytes + 1).check(&limits).is_err());

        assert!(rejection(|s| s.argv.clear()).contains("argv"));
        assert!(rejection(|s| s.argv[0].clear()).contains("argv"));
        assert!(rejection(|s| s.argv.push("\0".into())).contains("NUL"));
        assert!(rejection(|s| s.tag = Some("x".repeat(129))).contains("129"));
        assert!(rejection(|s| s.user = Some(User::Root)).contains("allow_root"));
        assert!(rejection(|s| s.cwd = Some(GuestPath::new(""))).contains("path"));
        assert!(rejection(|s| s.timeout = Some(301)).contains("301"));
        assert!(rejection(|s| s.idempotency_key = Some(IdempotencyKey::new(""))).contains("key"));
    }
}
