//! The smallest first process there is: it says one byte on the console and waits. A boot can
//! never be faster than to here.

use std::io::Write;

fn main() {
    let _ = std::io::stdout().write_all(b"F\n");
    loop {
        std::thread::park();
    }
}
