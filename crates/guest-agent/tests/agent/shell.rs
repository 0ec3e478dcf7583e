//! Shell contexts.
