//! A program that runs in a guest as an ordinary program, and tries what it must not be able to do. It makes one or a
//! few attempts for each isolation layer, and prints the result as a line of JSON.
//!
//! Without an argument it tries all layers. `forks`, `memory`, `disk` and `descriptors` exhaust that resource, report
//! it, and keep it.

mod devices;
mod exhaust;
mod kernel;
mod network;
mod privileges;
mod processes;
mod files;
mod verdict;

use std::io::Write;
use std::process::ExitCode;

use crate::verdict::Wall;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => try_all(),
        Some("forks") => exhaust::forks(),
        Some("memory") => exhaust::memory(),
        Some("disk") => exhaust::disk(),
        Some("descriptors") => exhaust::descriptors(),
        Some(other) => {
            eprintln!(
                "unknown argument `{other}`; use forks, memory, disk, descriptors or no argument"
            );
            return ExitCode::FAILURE;
        }
    }

    ExitCode::SUCCESS
}

/// Tries all layers, and prints a line for each.
fn try_all() {
    let all: [&[Wall]; 6] = [
        privileges::WALLS,
        kernel::WALLS,
        processes::WALLS,
        devices::WALLS,
        files::WALLS,
        network::WALLS,
    ];

    let mut out = std::io::stdout().lock();
    for wall in all.into_iter().flatten() {
        // If this fails, the test sees that a line is missing.
        let _ = writeln!(out, "{}", wall.verdict_json());
    }
}
