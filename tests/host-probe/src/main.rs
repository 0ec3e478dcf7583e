//! A program that the tests start in place of QEMU, by the same launcher with the same launch request. It tries
//! what a compromised QEMU would try, and prints to standard error, as one line of JSON, which layers held.

mod continued;
mod walls;
mod files;
mod identity;
mod kernel;
mod processes;
mod breaches;

use serde_json::json;

use crate::walls::{WALLS, verdict};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [processes::SURVIVE] => processes::sleep_and_exit(),
        [continued::WAIT, owner] => return continued::report_after_wait(owner),
        _ => {}
    }

    // Some attempts would change an unprotected host, so nothing is tried without a launcher.
    if !identity::has_dropped_privileges() {
        eprintln!(
            "{}",
            json!([{"wall": "launcher", "holds": false, "evidence": "it was started with rights"}])
        );
        return;
    }

    eprintln!("{}", json!(WALLS.map(verdict)));
}
