//! Runs in a guest as an ordinary program, and tries what it must not be able to do: one attempt or a few for each
//! wall, and a line of JSON for what came of them.
//!
//! Without an argument it tries all walls. `forks`, `memory`, `disk` and `descriptors` take all that they get of it,
//! say so, and hold it.

mod devices;
mod exhaust;
mod files;
mod kernel;
mod network;
mod privileges;
mod processes;
mod verdict;

use std::io::Write;
use std::process::ExitCode;

use crate::verdict::Wall;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => walls(),
        Some("forks") => exhaust::forks(),
        Some("memory") => exhaust::memory(),
        Some("disk") => exhaust::disk(),
        Some("descriptors") => exhaust::descriptors(),
        Some(other) => {
            eprintln!(
                "there is nothing called {other}; give forks, memory, disk, descriptors or nothing"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Every wall, by what it keeps a program from.
fn walls() {
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
        // Who started it sees that a line is missing.
        let _ = writeln!(out, "{}", wall.try_it());
    }
}
