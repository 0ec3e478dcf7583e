//! The command's own exit codes. They follow the conventions of other commands that run programs, such as `timeout` and
//! `env`.

/// The policy denies the request (`fumehood policy explain`).
pub(crate) const DENIED: u8 = 1;
/// The agent violates a clause of the protocol (`fumehood conformance`).
pub(crate) const NONCONFORMING: u8 = 1;
/// fumehood failed, not the program.
pub(crate) const FAILURE: u8 = 125;
/// The program reached its timeout.
pub(crate) const TIMEOUT: u8 = 124;
/// The user interrupted the command.
pub(crate) const INTERRUPTED: u8 = 130;
/// The reader of the output closed it (128 + SIGPIPE).
pub(crate) const BROKEN_PIPE: u8 = 141;
