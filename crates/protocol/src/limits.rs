use crate::error::{ErrorType, WireError};

/// The description of one limit, for documentation and for `--limit NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSpec {
    /// The limit's name, with its unit.
    pub name: &'static str,
    /// The value unless an operator sets another.
    pub default: u64,
    /// Why this value.
    pub reason: &'static str,
}

macro_rules! limits {
    ($($name:ident = $value:expr, $reason:literal;)*) => {
        /// The limits of a peer's requests. One value for each row of [`LIMITS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $reason] pub $name: u64,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $value,)* }
            }
        }

        /// Every limit with its default and its reason: the table in `docs/reference/protocol.md`.
        pub const LIMITS: &[LimitSpec] = &[
            $(LimitSpec { name: stringify!($name), default: $value, reason: $reason },)*
        ];

        impl Limits {
            /// Returns name and value of each limit, in the order of [`LIMITS`].
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Returns the limits that differ from their defaults, by name.
            #[must_use]
            pub fn changed(&self) -> std::collections::BTreeMap<String, u64> {
                let rows = self.iter().zip(LIMITS);
                let changed = rows.filter(|((_, value), row)| *value != row.default);
                changed.map(|((name, value), _)| (name.to_string(), value)).collect()
            }

            /// Sets the limit called `name`.
            ///
            /// # Errors
            /// A message for the operator if there is no limit of that name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    other => {
                        let names: Vec<&str> = LIMITS.iter().map(|row| row.name).collect();
                        return Err(format!("there is no limit `{other}`; the limits are {}", names.join(", ")));
                    }
                }
                Ok(())
            }
        }
    };
}

impl Limits {
    /// Checks a timeout of `min` to `timeout_s` seconds, and returns it.
    pub(crate) fn check_timeout(&self, seconds: i64, min: u64) -> Result<u64, WireError> {
        let max = self.timeout_s;
        let checked = u64::try_from(seconds)
            .ok()
            .filter(|s| (min..=max).contains(s));
        checked.ok_or_else(|| {
            let message = format!("field `timeout`: {seconds} seconds; {min} to {max} are allowed");
            WireError::new(ErrorType::RequestError, message)
        })
    }
}

limits! {
    line_bytes = 16 * 1024 * 1024,
        "One request line. The largest valid exec, with every byte of code, arguments and variables JSON-escaped to six, is 15.3 MiB.";
    code_bytes = 2 * 1024 * 1024,
        "Code of one exec, UTF-8. The seed states 2 MB twice.";
    timeout_s = 300,
        "The longest timeout of an exec or an installation, in seconds; timeout 0 stands for it. An operator can raise it.";
    default_exec_timeout_s = 5,
        "The timeout, in seconds, of an exec without one. The seed's default.";
    default_install_timeout_s = 300,
        "The timeout, in seconds, of an installation without one.";
    env_vars = 100,
        "Environment variables of one exec. The seed's guest enforces the same number.";
    env_name_bytes = 256,
        "Name of an environment variable; at least 1.";
    env_value_bytes = 4096,
        "Value of an environment variable. The conventional figure.";
    packages = 50,
        "Packages of one installation; at least 1.";
    package_bytes = 214,
        "Name of a package: npm's limit, which contains the seed's 204.";
    package_spec_bytes = 512,
        "A whole package argument: name, extras and version specifier.";
    operations = 64,
        "Concurrent operations on one connection. Each costs two pipes and up to one chunk of memory.";
    input_bytes = 256 * 1024,
        "Input of one operation that may be in flight before the agent grants credit. At 100 MB/s a reader never idles while it waits for its turn.";
    args = 1024,
        "Arguments of an exec.";
    argv_bytes = 128 * 1024,
        "Arguments of an exec or a spawn, each with its terminating NUL. Linux accepts the same size for one argument.";
    tag_bytes = 128,
        "Tag of a spawn.";
    detached = 32,
        "Concurrent operations with an idempotency key. Each costs its pipes and its stored output.";
    key_bytes = 128,
        "Idempotency key; at least 1.";
    journal_keys = 10000,
        "Idempotency keys that an agent records with the outcomes of their operations; past it new keys are rejected, since none may be forgotten. Each costs some 300 bytes.";
    replay_bytes = 256 * 1024,
        "Latest output of an operation with a key, stored for clients that attach to it. A client that grants no more credit than this loses no output when its connection breaks.";
    journal_bytes = 4 * 1024 * 1024,
        "Stored output of all ended operations with a key; the oldest is dropped first.";
    path_bytes = 4095,
        "A path; at least 1. Linux's PATH_MAX without its NUL.";
    file_bytes = 1024 * 1024 * 1024,
        "One written file. The guest's disk is half of its memory, and is full before that.";
    list_entries = 10000,
        "Entries of one listing.";
    watched_directories = 1024,
        "Directories of one watch.";
    allow_root = 0,
        "1 = spawn may run programs as the guest's root, which controls everything in the guest, including the agent.";
    contexts = 16,
        "Concurrent contexts in one agent. Each is an interpreter that stays in memory.";
    context_name_bytes = 64,
        "Name of a context; at least 1.";
    connections = 16,
        "Concurrent connections to an agent that listens on TCP.";
    token_bytes = 1024,
        "Token or nonce in hello.";
    chunk_bytes = 64 * 1024,
        "Output of one stream collected before it is sent, and the longest raw frame. The seed's 64 KiB, which is also the capacity of a pipe.";
    flush_ms = 50,
        "The longest time that output waits for more, in milliseconds. The seed's figure.";
    queued_bytes = 256 * 1024,
        "Unsent response bytes of one connection above which the agent stops reading output from programs (back-pressure).";
    grace_ms = 1000,
        "Milliseconds between SIGINT, SIGTERM and SIGKILL when an exec is timed out or cancelled.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_can_be_set_by_name() {
        for row in LIMITS {
            let mut limits = Limits::default();
            limits.set(row.name, row.default + 1).unwrap();
            assert_ne!(limits, Limits::default(), "{} was not set", row.name);
        }
    }

    #[test]
    fn an_unknown_name_is_rejected_with_the_known_ones() {
        let error = Limits::default().set("code_megabytes", 1).unwrap_err();
        assert!(error.contains("code_bytes"), "{error}");
    }

    /// The reason given for `line_bytes`: the largest valid exec fits.
    #[test]
    fn the_largest_valid_exec_fits_in_a_line() {
        let limits = Limits::default();
        let worst = 6
            * (limits.code_bytes
                + limits.argv_bytes
                + limits.env_vars * (limits.env_name_bytes + limits.env_value_bytes));
        assert!(worst + 4096 < limits.line_bytes);
    }
}
