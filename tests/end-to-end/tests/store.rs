//! Images as another user sees them, and damaged ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use fumehood_end_to_end::others::{copy_of_the_programs, copy_of_the_store};
use fumehood_end_to_end::{finish, fumehood, program};

/// A user id that no account has.
const STRANGER: u32 = 54_321;

fn hello(store: &Path, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["run", "-l", "shell", "-c", "echo hello"])
        .env("FUMEHOOD_HOME", store);
    command
}

#[test]
fn an_ordinary_user_runs_code_from_an_image_that_is_not_his() {
    if !rustix::process::geteuid().is_root() {
        println!("these tests run as an ordinary user already");
        return;
    }
    let store = copy_of_the_store();
    let own = copy_of_the_programs(store.path());
    let mut command = hello(store.path(), &own);
    command
        .uid(STRANGER)
        .gid(STRANGER)
        .env_remove("HOME")
        .current_dir("/");
    let output = finish(command);
    assert_eq!(
        output.stdout,
        b"hello\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_damaged_part_is_found_and_named() {
    let store = copy_of_the_store();
    let rootfs = store.path().join("images/default/rootfs.erofs");
    let mut file = fs::OpenOptions::new().write(true).open(&rootfs).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(b"not what was built").unwrap();
    drop(file);
    let output = finish(hello(store.path(), &program()));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        text.contains("rootfs") && text.contains("fumehood image build"),
        "{text}"
    );

    let mut command = fumehood();
    command
        .args(["image", "verify"])
        .env("FUMEHOOD_HOME", store.path());
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        text.contains("BAD  rootfs") && text.contains("ok   kernel"),
        "{text}"
    );
}
