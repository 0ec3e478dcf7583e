//! Whether an input that is entered line by line is complete.
//!
//! Each language has a small lexer, which knows strings, comments, brackets and blocks. It runs at each Enter and
//! for each line of a script, so it must not need a round trip to the guest's interpreter. Its errors cost little: if it
//! takes an incomplete input for complete, the interpreter reports a syntax error.

mod javascript;
mod lexer;
mod python;
mod shell;
mod strings;

pub(super) use lexer::{InputState, is_complete};
