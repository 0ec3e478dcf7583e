//! The differential test: each program of `tests/fidelity` behaves in every mode as with the plain interpreter.
//!
//! Here: reading programs and the table of exceptions, running programs in all modes, and comparing what they did.
//! `tests/fidelity/README.md` says how to write a program.
//!
//! Not here: expectations. A program is compared only with what the plain interpreter did in the same run.

mod comparison;
mod diff;
mod driver;
mod exceptions;
mod execution;
mod modes;
mod program;
mod times;

pub use comparison::{Report, compare};
pub use driver::{Executions, execute_all};
pub use exceptions::{Exception, Exceptions, Replacement};
pub use execution::{Execution, Stream};
pub use modes::Mode;
pub use program::{Folder, Program, Selection};
pub use times::times;

use std::path::PathBuf;

/// Returns the directory of the programs and of the table of exceptions.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fidelity")
}
