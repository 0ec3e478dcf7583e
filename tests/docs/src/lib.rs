//! The Rust examples of README and docs, compiled.
//!
//! `build.rs` collects each `rust` block of these pages as the body of an async function. Compiling this crate shows
//! that the examples fit the API; nothing runs them. `check.py` tests the other blocks.

#[allow(warnings, clippy::all, clippy::pedantic, missing_docs)]
mod examples {
    include!(concat!(env!("OUT_DIR"), "/examples.rs"));
}
