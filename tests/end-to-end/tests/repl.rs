//! The REPL at a terminal: its history, completion, input and pictures.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Child;

use fumehood_end_to_end::pty::Pty;
use fumehood_end_to_end::{send, wait_until};
use rustix::process::Signal;

fn wait_for_exit(mut child: Child) -> Option<i32> {
    let mut status = None;
    wait_until("the command's end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

/// Starts a REPL whose history is in `state`, and not in the directory of the user who tests.
fn run_repl(pty: &Pty, language: &str, state: &Path) -> Child {
    let variables = [
        ("XDG_STATE_HOME", state.as_os_str()),
        ("TMPDIR", state.as_os_str()),
    ];
    pty.run_with_env(&["repl", "-l", language], &variables)
}

/// Waits for the next prompt. Its text is no sign of that: it is drawn again for each key.
fn wait_for_prompt(pty: &mut Pty) {
    pty.wait_for("\x1b[?2004h");
}

#[test]
fn a_repl_keeps_its_history_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt;

    let state = tempfile::tempdir().unwrap();
    let mut pty = Pty::new(24, 80);
    let child = run_repl(&pty, "python", state.path());
    let banner = pty.wait_for("\x1b[?2004h");
    assert!(banner.contains(": Python 3."), "{banner}");
    assert!(banner.contains("no network"), "{banner}");
    pty.type_in("'first' + 'input'\r");
    pty.wait_for("'firstinput'\r\n");
    wait_for_prompt(&mut pty);
    pty.type_in(" 'secret' + 's'\r");
    pty.wait_for("IndentationError");
    wait_for_prompt(&mut pty);
    // A session that is killed has recorded its inputs.
    send(child.id(), Signal::KILL);
    wait_for_exit(child);

    let file = state.path().join("fumehood/repl-python.history");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let history = fs::read_to_string(&file).unwrap();
    assert_eq!(history, "#V2\n'first' + 'input'\n");

    let mut pty = Pty::new(24, 80);
    let child = run_repl(&pty, "python", state.path());
    wait_for_prompt(&mut pty);
    pty.type_in("\x1b[A");
    pty.wait_for("'first' + 'input'");
    pty.type_in("\r");
    pty.wait_for("'firstinput'\r\n");
    wait_for_prompt(&mut pty);
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
        let child = run_repl(&pty, language, state.path());
        wait_for_prompt(&mut pty);
        pty.type_in(define);
        pty.type_in("\r");
        wait_for_prompt(&mut pty);
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
        wait_for_prompt(&mut pty);
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
        let child = run_repl(&pty, language, state.path());
        wait_for_prompt(&mut pty);
        pty.type_in(code);
        pty.type_in("\r");
        pty.wait_for("name? ");
        pty.type_in("Ada\r");
        pty.wait_for("got Ada\r\n");
        wait_for_prompt(&mut pty);

        // The input of one program is not that of the next, and the prompt reads the terminal again.
        if language == "python" {
            pty.type_in("input('a' + 'gain ')\r");
            pty.wait_for("again ");
            pty.type_in("\x04");
            pty.wait_for("EOFError");
            wait_for_prompt(&mut pty);
            pty.type_in("name * 2\r");
            pty.wait_for("'AdaAda'\r\n");
            wait_for_prompt(&mut pty);
        }
        pty.type_in("\x04");
        assert_eq!(wait_for_exit(child), Some(0), "{language}");
    }
}

#[test]
fn pictures_in_a_repl_are_files() {
    let state = tempfile::tempdir().unwrap();
    let mut pty = Pty::new(24, 200);
    let child = run_repl(&pty, "python", state.path());
    wait_for_prompt(&mut pty);
    pty.type_in("type('P', (), {'_repr_png_': lambda self: b'\\x89PNG\\r\\n\\x1a\\nbytes'})()\r");
    pty.wait_for("[picture: ");
    let path = pty.wait_for("]");
    assert_eq!(fs::read(&path).unwrap(), b"\x89PNG\r\n\x1a\nbytes");
    assert!(Path::new(&path).starts_with(state.path()), "{path}");
    wait_for_prompt(&mut pty);
    pty.type_in("\x04");
    assert_eq!(wait_for_exit(child), Some(0));
}
