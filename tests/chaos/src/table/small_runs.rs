//! The arguments of runs that several faults strike.

/// A small run.
pub(super) const RUN: [&str; 6] = ["run", "--json", "-l", "shell", "-c", "echo well"];
/// A run with a package that has been installed before.
pub(super) const PACKAGE: [&str; 8] = [
    "run",
    "--json",
    "-l",
    "python",
    "-p",
    "tiny==1.5",
    "-c",
    "import tiny; print('well')",
];
