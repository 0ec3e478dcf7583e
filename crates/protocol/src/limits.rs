/// One row of the table of limits, for documentation and for `--limit NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSpec {
    /// The limit's name, with its unit.
    pub name: &'static str,
    /// The value that holds unless an operator sets another.
    pub default: u64,
    /// Why this value.
    pub reason: &'static str,
}

macro_rules! limits {
    ($($name:ident = $value:expr, $reason:literal;)*) => {
        /// What a peer may ask for at most. One value for each row of [`LIMITS`].
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
            /// Name and value of each, in the order of [`LIMITS`].
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Those that differ from their defaults, by name.
            #[must_use]
            pub fn changed(&self) -> std::collections::BTreeMap<String, u64> {
                let rows = self.iter().zip(LIMITS);
                let changed = rows.filter(|((_, value), row)| *value != row.default);
                changed.map(|((name, value), _)| (name.to_string(), value)).collect()
            }

            /// Sets the limit called `name`.
            ///
            /// # Errors
            /// A sentence for the operator when there is no limit of that name.
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

limits! {
    line_bytes = 16 * 1024 * 1024,
        "One request line. The largest valid exec, with every byte of code and variables JSON-escaped to six, is 14.7 MiB.";
    code_bytes = 2 * 1024 * 1024,
        "Code of one exec, UTF-8. The seed states 2 MB twice.";
    timeout_s = 300,
        "The longest timeout of an exec or an installation, in seconds; what timeout 0 means. An operator can raise it.";
    default_exec_timeout_s = 5,
        "The timeout, in seconds, of an exec that names none. The seed's default.";
    default_install_timeout_s = 300,
        "The timeout, in seconds, of an installation that names none.";
    env_vars = 100,
        "Environment variables of one exec. What the seed's guest enforces.";
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
        "Operations at once on one connection. Each costs two pipes and up to one chunk of memory.";
    input_bytes = 256 * 1024,
        "Input of one operation that may be on its way before the agent gives credit. A reader that waits for its turn is never idle at 100 MB/s.";
    argv_bytes = 128 * 1024,
        "Words of a spawn, each with its end. What Linux takes as one argument.";
    tag_bytes = 128,
        "Tag of a spawn.";
    detached = 32,
        "Operations with an idempotency key at once. Each costs its pipes and what is kept of its output.";
    key_bytes = 128,
        "Idempotency key; at least 1.";
    journal_keys = 10000,
        "Idempotency keys that an agent remembers with how their operations ended; past it new keys are refused, since none may be forgotten. Each costs some 300 bytes.";
    replay_bytes = 256 * 1024,
        "Latest output of an operation with a key that is kept for who attaches to it. Who gives no more credit than this loses nothing when a connection breaks.";
    journal_bytes = 4 * 1024 * 1024,
        "Output kept of all operations with a key that have ended, the oldest dropped first.";
    path_bytes = 4095,
        "A path; at least 1. Linux's PATH_MAX without its NUL.";
    file_bytes = 1024 * 1024 * 1024,
        "One file written. The guest's disk is half of its memory, and refuses before that.";
    list_entries = 10000,
        "Entries of one listing.";
    watched_directories = 1024,
        "Directories of one watch.";
    allow_root = 0,
        "1 = spawn may ask for the guest's root, who can do anything in the guest, also to its agent.";
    contexts = 16,
        "Contexts at once in one agent. Each is an interpreter that stays in memory.";
    context_name_bytes = 64,
        "Name of a context; at least 1.";
    connections = 16,
        "Connections at once to an agent that listens on TCP.";
    token_bytes = 1024,
        "Token or nonce in hello.";
    chunk_bytes = 64 * 1024,
        "Output of one stream gathered before it is sent, and the longest raw frame. The seed's 64 KiB: also a pipe's capacity.";
    flush_ms = 50,
        "Milliseconds that output waits at most for more of it. The seed's figure.";
    queued_bytes = 256 * 1024,
        "Unsent response bytes of one connection above which no more output is read from programs: back-pressure.";
    grace_ms = 1000,
        "Milliseconds between SIGINT, SIGTERM and SIGKILL when an exec is timed out or cancelled.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_set_by_its_name() {
        for row in LIMITS {
            let mut limits = Limits::default();
            limits.set(row.name, row.default + 1).unwrap();
            assert_ne!(limits, Limits::default(), "{} was not set", row.name);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = Limits::default().set("code_megabytes", 1).unwrap_err();
        assert!(error.contains("code_bytes"), "{error}");
    }

    /// The reason given for `line_bytes`: the largest valid exec fits.
    #[test]
    fn the_largest_valid_exec_fits_in_a_line() {
        let limits = Limits::default();
        let worst = 6
            * (limits.code_bytes
                + limits.env_vars * (limits.env_name_bytes + limits.env_value_bytes));
        assert!(worst + 4096 < limits.line_bytes);
    }
}
