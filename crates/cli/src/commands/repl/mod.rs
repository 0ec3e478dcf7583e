//! `fumehood repl`: code is entered input by input and runs in one context of a sandbox. How an input is entered and when
//! it is complete is in [`prompt`] and [`completeness`].

mod completeness;
mod prompt;
mod session;
mod source;

pub(crate) use session::run;
