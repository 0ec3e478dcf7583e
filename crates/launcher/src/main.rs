//! Puts up the walls around QEMU and becomes it. Started by fumehood, with its order on standard input.

fn main() -> std::process::ExitCode {
    fumehood_launcher::launch()
}
