//! The first process of a guest with a hostile agent. It answers the host's greeting, and then reacts to each request
//! with the attack that the request names: an exec by its code, a file request by its path.
//!
//! The kind of its greeting is appended to the program itself, as a last line: `greeting=…`.

mod attacks;
mod greetings;
mod connection;

use std::fs;

use connection::Connection;

fn main() {
    let mut connection = match Connection::open() {
        Ok(connection) => connection,
        Err(error) => {
            // Standard error is the kernel's console.
            eprintln!("fake agent: {error}");
            return;
        }
    };

    greetings::greet(&mut connection, &greeting_kind());
    loop {
        let request = connection.next_request();
        attacks::run(&mut connection, &request);
    }
}

/// Returns the kind of greeting that is appended to the program.
fn greeting_kind() -> String {
    let program = fs::read("/init").unwrap_or_default();
    let last = program
        .rsplit(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();

    let last = String::from_utf8_lossy(last).into_owned();
    last.strip_prefix("greeting=")
        .unwrap_or_default()
        .to_owned()
}
