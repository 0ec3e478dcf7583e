//! `fumehood repl`: code is entered input by input and runs in one context of a sandbox. How an input is entered and when
//! it is complete is in [`prompt`] and [`completeness`]. `guest` contains the programs that complete words in the guest.

mod banner;
mod completeness;
mod completion;
mod history;
mod plots;
mod prompt;
mod session;
mod source;

pub(crate) use session::run;
