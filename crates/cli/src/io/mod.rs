//! The terminal and the standard streams of this command: input that is passed on, output, signals and messages of its
//! own. What a command does with them does not belong here.

mod interrupts;
mod messages;
mod output;
mod package_progress;
mod stdin;
mod terminal;

pub(crate) use interrupts::{Asked, Interrupts, Patience};
pub(crate) use messages::{complain, denied, exposed, greet, part, say};
pub(crate) use output::{Kept, Output};
pub(crate) use package_progress::PackageProgress;
pub(crate) use stdin::Feeding;
pub(crate) use terminal::{Terminal, is_interactive, size};
