//! Values that `fumehood run --display` and `fumehood repl` print.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::Stdio;

use fumehood_end_to_end::{finish, finish_child, fumehood};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn values_are_printed_where_the_program_displayed_them() {
    let programs = [
        (
            "python",
            "import sys\nprint('one'); print('two'); display(1); print('three'); display(2); print('four')\n7\n",
        ),
        (
            "javascript",
            "console.log('one'); console.log('two'); display(1); console.log('three'); display(2); console.log('four'); 7\n",
        ),
    ];

    let expected = "one\ntwo\n1\nthree\n2\nfour\n7\n";
    for (language, code) in programs {
        let mut run = fumehood();
        run.args(["run", "--display", "-l", language, "-c", code]);
        assert_eq!(text(&finish(run).stdout), expected, "run {language}");

        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(code.as_bytes()).unwrap();
        drop(writer);
        let mut repl = fumehood();
        repl.args(["repl", "-l", language])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(reader);
        let output = finish_child(repl.spawn().unwrap());
        assert_eq!(text(&output.stdout), expected, "repl {language}");
    }
}
