//! Messages to the operator.

use std::io::{self, Write};

/// Prints a message on standard error, which is the kernel's console in a VM. A failure to write it is ignored: a message
/// must not end the agent.
pub(crate) fn eprint_message(message: &str) {
    let _ = writeln!(io::stderr(), "fumehood-agent: {message}");
}
