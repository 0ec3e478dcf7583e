//! Interpreters: each language, contexts, prepared interpreters and the display of values.

mod context_queue;
mod contexts;
mod javascript;
mod javascript_isolation;
mod languages;
pub(crate) mod prepared;
mod python;
mod python_program;
mod python_values;
mod shell;
mod shell_scripts;
