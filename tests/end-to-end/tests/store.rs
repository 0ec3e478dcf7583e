//! Images of another user, and damaged images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fumehood_end_to_end::unprivileged::{copy_programs, copy_store};
use fumehood_end_to_end::{finish, fumehood, program, send, wait_for_exit, wait_until};
use rustix::process::Signal;

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

/// A program in the place of mmdebstrap, which leaves some work and then waits.
const SLOW_MMDEBSTRAP: &str =
    "#!/bin/sh\necho half > \"${TMPDIR:-/tmp}/started\"\nexec sleep 100\n";

/// Starts an image build in an empty store, and waits until it is in the middle of its work.
fn start_build(store: &Path) -> std::process::Child {
    let programs = store.join("programs");
    fs::create_dir(&programs).unwrap();
    let slow = programs.join("mmdebstrap");
    fs::write(&slow, SLOW_MMDEBSTRAP).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();

    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = fumehood();
    command.args(["image", "build", "--kernel", "debian"]);
    command.env("FUMEHOOD_HOME", store).env("PATH", path);
    let build = command.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the work of the build", || unfinished(store) > 2);
    build
}

/// The number of files and directories of unfinished work.
fn unfinished(store: &Path) -> usize {
    let children = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let outer = children(&store.join("tmp"));
    outer.len() + outer.iter().map(|path| children(path).len()).sum::<usize>()
}

fn output_of(store: &Path, args: &[&str]) -> String {
    let mut command = fumehood();
    command.args(args).env("FUMEHOOD_HOME", store);
    let output = finish(command);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        println!("an ordinary user's mmdebstrap works outside of the store");
        return;
    }

    let store = tempfile::tempdir().unwrap();
    let build = start_build(store.path());
    send(build.id(), Signal::INT);
    assert_eq!(wait_for_exit(build), Some(130));
    assert_eq!(unfinished(store.path()), 0);
}

#[test]
fn the_work_of_a_killed_build_is_shown_and_removed_by_the_next_command() {
    if !rustix::process::geteuid().is_root() {
        println!("an ordinary user's mmdebstrap works outside of the store");
        return;
    }

    for next in [["image", "prune"], ["image", "list"]] {
        let store = tempfile::tempdir().unwrap();
        let mut build = start_build(store.path());
        send(build.id(), Signal::KILL);
        build.wait().unwrap();
        let left = unfinished(store.path());
        let work = store.path().join("tmp/work-1-large");
        fs::create_dir(&work).unwrap();
        fs::write(work.join("file"), vec![7; 2 << 20]).unwrap();
        assert!(left > 0);

        let text = output_of(store.path(), &["doctor"]);
        assert!(text.contains("unfinished work of killed builds"), "{text}");
        assert!(unfinished(store.path()) >= left, "doctor changes nothing");
        wait_until("the removal of the work", || {
            output_of(store.path(), &next);
            unfinished(store.path()) == 0
        });
    }
}

#[test]
fn doctor_and_a_build_name_everything_that_is_missing() {
    let store = tempfile::tempdir().unwrap();
    let mut texts = Vec::new();
    for args in [&["doctor"][..], &["image", "build", "--kernel", "debian"]] {
        let mut command = fumehood();
        command.args(args).env("PATH", "/nonexistent");
        command.env("FUMEHOOD_HOME", store.path());
        let output = finish(command);
        assert_eq!(output.status.code(), Some(125));
        texts.push(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    }

    for package in ["mmdebstrap", "npm", "python3", "erofs-utils"] {
        for text in &texts {
            assert!(text.contains("apt-get install"), "{text}");
            assert!(text.contains(package), "{text}");
        }
    }
    assert!(
        texts[1].contains("cannot build an image yet"),
        "{}",
        texts[1]
    );
    assert_eq!(unfinished(store.path()), 0);
}
