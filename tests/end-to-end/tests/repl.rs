//! The REPL at a terminal: its history, completion, input and pictures.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use fumehood_end_to_end::pty::Pty;
use fumehood_end_to_end::{send, wait_for_exit};
use rustix::process::Signal;

#[test]
fn a_repl_keeps_its_history_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt;

    let state = tempfile::tempdir().unwrap();
    let mut pty = Pty::new(24, 80);
    let child = pty.run_repl("python", state.path());
    let banner = pty.wait_for("\x1b[?2004h");
    assert!(banner.contains(": Python 3."), "{banner}");
    assert!(banner.contains("no network"), "{banner}");
    pty.type_in("'first' + 'input'\r");
    pty.wait_for("'firstinput'\r\n");
    pty.wait_for_prompt();
    pty.type_in(" 'secret' + 's'\r");
    pty.wait_for("IndentationError");
    pty.wait_for_prompt();
    // A session that is killed has recorded its inputs.
    send(child.id(), Signal::KILL);
    let _ = wait_for_exit(child);

    let file = state.path().join("fumehood/repl-python.history");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let history = fs::read_to_string(&file).unwrap();
    assert_eq!(history, "#V2\n'first' + 'input'\n");

    let mut pty = Pty::new(24, 80);
    let child = pty.run_repl("python", state.path());
    pty.wait_for_prompt();
    pty.type_in("\x1b[A");
    pty.wait_for("'first' + 'input'");
    pty.type_in("\r");
    pty.wait_for("'firstinput'\r\n");
    pty.wait_for_prompt();
    pty.type_in("\x04");
    assert_eq!(wait_for_exit(child), Some(0));
}

#[test]
fn the_guest_completes_words_of_a_repl() {
    let state = tempfile::tempdir().unwrap();
    for (language, define, typed, seen) in [
        (
            "python",
            "alphabet = type('A', (), {'beta': 'found' + 'it'})",
            ["alpha\t", ".be\t"],
            ["alphabet", "foundit"],
        ),
        (
            "javascript",
            "const alphabet = { beta: 'found' + 'it' }",
            ["alpha\t", ".be\t"],
            ["alphabet", "foundit"],
        ),
        (
            "shell",
            "mkdir 'a dir'; echo found''it > 'a dir/file'",
            ["cat a\t", "f\t"],
            ["a\\ dir/", "foundit"],
        ),
    ] {
        let mut pty = Pty::new(24, 100);
        let child = pty.run_repl(language, state.path());
        pty.wait_for_prompt();
        pty.type_in(define);
        pty.type_in("\r");
        pty.wait_for_prompt();
        pty.type_in(typed[0]);
        pty.wait_for(seen[0]);
        pty.type_in(typed[1]);
        if language == "shell" {
            pty.wait_for("file");
        } else {
            pty.wait_for("beta");
        }
        pty.type_in("\r");
        pty.wait_for(seen[1]);
        pty.wait_for_prompt();
        pty.type_in("\x04");
        assert_eq!(wait_for_exit(child), Some(0), "{language}");
    }
}

#[test]
fn code_in_a_repl_reads_what_is_typed() {
    let state = tempfile::tempdir().unwrap();
    for (language, code) in [
        ("python", "name = input('na' + 'me? '); print('got', name)"),
        (
            "javascript",
            "const name = prompt('na' + 'me?'); console.log('got', name)",
        ),
        ("shell", "printf 'na''me? '; read -r name; echo got $name"),
    ] {
        let mut pty = Pty::new(24, 100);
        let child = pty.run_repl(language, state.path());
        pty.wait_for_prompt();
        pty.type_in(code);
        pty.type_in("\r");
        pty.wait_for("name? ");
        pty.type_in("Ada\r");
        pty.wait_for("got Ada\r\n");
        pty.wait_for_prompt();

        // The input of one program is not that of the next, and the prompt reads the terminal again.
        if language == "python" {
            pty.type_in("input('a' + 'gain ')\r");
            pty.wait_for("again ");
            pty.type_in("\x04");
            pty.wait_for("EOFError");
            pty.wait_for_prompt();
            pty.type_in("name * 2\r");
            pty.wait_for("'AdaAda'\r\n");
            pty.wait_for_prompt();
        }
        pty.type_in("\x04");
        assert_eq!(wait_for_exit(child), Some(0), "{language}");
    }
}

#[test]
fn pictures_in_a_repl_are_files() {
    let state = tempfile::tempdir().unwrap();
    let mut pty = Pty::new(24, 200);
    let child = pty.run_repl("python", state.path());
    pty.wait_for_prompt();
    pty.type_in("type('P', (), {'_repr_png_': lambda self: b'\\x89PNG\\r\\n\\x1a\\nbytes'})()\r");
    pty.wait_for("[picture: ");
    let path = pty.wait_for("]");
    assert_eq!(fs::read(&path).unwrap(), b"\x89PNG\r\n\x1a\nbytes");
    assert!(Path::new(&path).starts_with(state.path()), "{path}");
    pty.wait_for_prompt();
    pty.type_in("\x04");
    assert_eq!(wait_for_exit(child), Some(0));
}
