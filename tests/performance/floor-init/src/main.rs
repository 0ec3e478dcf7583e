//! The smallest first process: it writes one line to the console and waits. Its start is the lower bound of any
//! boot.

use std::io::Write;

fn main() {
    let _ = std::io::stdout().write_all(b"F\n");
    loop {
        std::thread::park();
    }
}
