//! Images of another user, and damaged images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use fumehood_end_to_end::unprivileged::{copy_programs, copy_store};
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
fn a_user_can_run_code_from_another_users_image() {
    if !rustix::process::geteuid().is_root() {
        println!("these tests run as an ordinary user already");
        return;
    }

    let store = copy_store();
    let own = copy_programs(store.path());
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
fn a_damaged_image_file_is_detected_and_named() {
    let store = copy_store();
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
