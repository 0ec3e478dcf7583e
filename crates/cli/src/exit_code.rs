//! Exit codes of the command itself, as other runners of programs have them.

/// A policy does not allow what was asked for.
pub(crate) const DENIED: u8 = 1;
/// A failure of fumehood, not of the program.
pub(crate) const FAILURE: u8 = 125;
/// The program's time was up.
pub(crate) const TIMEOUT: u8 = 124;
/// Interrupted by the user.
pub(crate) const INTERRUPTED: u8 = 130;
/// Nobody reads the output any more.
pub(crate) const BROKEN_PIPE: u8 = 141;
