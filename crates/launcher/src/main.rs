//! Sets up the isolation of QEMU and becomes it. Started by fumehood, with its launch request on standard input.

fn main() -> std::process::ExitCode {
    fumehood_launcher::launch()
}
