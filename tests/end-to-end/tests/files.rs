//! Files of a real sandbox: exact transfers, in bounded memory, with the user's rights.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind as Io;
use std::time::Duration;

use fumehood_end_to_end::{random_bytes, sandbox, sha256_hex, shell_ok};
use fumehood_engine::{ChangeKind, ErrorKind, FileKind, Language, RunRequest, WriteOptions};

/// Lists the home directory, except for the directory of packages.
const LEFT: &str = "ls -A | grep -vx -e .local -e main.sh || true";

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_downloads_preserve_bytes() {
    let sandbox = sandbox(512).await;
    let files = sandbox.files();

    for len in [0, 1, 100, 65_535, 65_536, 65_537, 5_000_000] {
        let bytes = random_bytes(len);
        files.write("data.bin", bytes.clone()).await.unwrap();
        let digest = shell_ok(&sandbox, "sha256sum < data.bin | cut -d' ' -f1").await;
        assert_eq!(digest.trim(), sha256_hex(&bytes), "{len} bytes");
        assert!(
            files.read("data.bin").await.unwrap() == bytes,
            "{len} bytes"
        );
    }

    let part = files.read_range("data.bin", 4_999_990, 100).await.unwrap();
    assert_eq!(&part[..], &random_bytes(5_000_000)[4_999_990..]);
    assert_eq!(
        files.read_range("data.bin", 5_000_001, 1).await.unwrap(),
        ""
    );

    // A file that a program writes is downloaded unchanged.
    shell_ok(&sandbox, "printf 'a\\0\\377\\n' > made; chmod 600 made").await;
    assert_eq!(&files.read("made").await.unwrap()[..], b"a\0\xff\n");
    let made = files.stat("made").await.unwrap();
    assert_eq!(
        (made.kind, made.size, made.mode, made.user),
        (FileKind::File, 4, 0o600, 1000)
    );

    let options = WriteOptions {
        mode: Some(0o755),
        parents: true,
        size: None,
    };

    files
        .write_with_options("a/b/run.sh", "#!/bin/sh\necho it runs\n", options)
        .await
        .unwrap();

    assert_eq!(
        shell_ok(&sandbox, "a/b/run.sh; stat -c '%U %a' a/b").await,
        "it runs\nuser 755\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_accessed_with_the_users_rights() {
    let sandbox = sandbox(256).await;
    let files = sandbox.files();

    for path in [
        "/etc/passwd",
        "/usr/new",
        "/root/x",
        "/run/fumehood/python.py",
        "/x",
    ] {
        let error = files.write(path, "mine").await.unwrap_err();
        let kind = error.io_kind();
        assert!(
            matches!(kind, Some(Io::PermissionDenied | Io::ReadOnlyFilesystem)),
            "{path}: {error}"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    for path in [
        "/etc/shadow",
        "/root",
        "/proc/1/environ",
        "/proc/self/mem",
        "/dev/vda",
    ] {
        files.read(path).await.unwrap_err();
    }

    assert!(
        files
            .read("/etc/passwd")
            .await
            .unwrap()
            .starts_with(b"root:")
    );

    for error in [
        files.remove("/etc/passwd").await,
        files.rename("/etc/passwd", "stolen").await,
        files.remove_all("/usr/lib").await,
        files.make_dir("/usr/new").await,
    ] {
        error.unwrap_err();
    }

    // Links that a program leaves lead only to files that it could access itself.
    shell_ok(
        &sandbox,
        "ln -s /etc/shadow shadow; ln -s /proc/self/environ env; ln -s /root root; ln -s /etc etc",
    )
    .await;

    for path in ["shadow", "env", "root/x"] {
        files.read(path).await.unwrap_err();
    }

    files.write("etc/passwd", "x").await.unwrap_err();
    files.write("shadow", "mine").await.unwrap();
    assert_eq!(
        shell_ok(&sandbox, "cat shadow; stat -c %F shadow").await,
        "mineregular file\n"
    );
    files.write("/tmp/shared", "ok").await.unwrap();
    files.write("/dev/shm/shared", "ok").await.unwrap();
    let missing = files.read("none").await.unwrap_err();
    assert_eq!(missing.io_kind(), Some(Io::NotFound));
    assert!(missing.to_string().contains("none"), "{missing}");
}

/// A program renames and replaces under the agent's hand, and gains nothing; a write either has all its
/// bytes where it says, or fails.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_renames_do_not_lead_outside_the_directory() {
    let sandbox = sandbox(256).await;
    let files = sandbox.files();
    let attack = "import os
os.makedirs('d', exist_ok=True)
while True:
    for name in os.listdir('d'):
        try:
            if name.startswith('.'):
                os.rename('d/' + name, 'd/gone')
                os.symlink('/etc/passwd', 'd/' + name)
            os.rename('d', 'e'); os.symlink('/etc', 'd'); os.unlink('d'); os.rename('e', 'd')
        except OSError:
            pass
";
    let attacker = sandbox
        .run(&RunRequest::new(Language::Python, attack).timeout_s(100))
        .unwrap();
    let mut failed = 0;
    for n in 0..300_u32 {
        let content = format!("content {n}");
        match files.write("d/file", content.clone()).await {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                failed += 1;
            }
        }
    }
    eprintln!("{failed} of 300 writes were told to have failed");
    drop(attacker);
    assert!(
        shell_ok(&sandbox, "head -c 5 /etc/passwd; ls /etc/passwd")
            .await
            .starts_with("root:")
    );
    files.write("calm", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_uploaded_and_downloaded() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let sandbox = sandbox(512).await;
    let files = sandbox.files();
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = from.path();
    std::fs::create_dir_all(source.join("sub/empty")).unwrap();
    std::fs::write(source.join("sub/data"), random_bytes(3_000_000)).unwrap();
    std::fs::write(source.join("run"), "#!/bin/sh\necho ran > made\n").unwrap();
    std::fs::set_permissions(source.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/data", source.join("link")).unwrap();

    for n in 0..500 {
        std::fs::write(source.join(format!("sub/{n}")), n.to_string()).unwrap();
    }

    let skipped = files.upload_dir(source, "project").await.unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
    let seen = "cd project; ./run; find . | wc -l; readlink link; cat sub/499; ln -s /etc/passwd out; mkfifo pipe";
    assert_eq!(shell_ok(&sandbox, seen).await, "507\nsub/data\n499");
    let skipped = files.download_dir("project", to.path()).await.unwrap();
    let names: Vec<_> = skipped.files.iter().map(|one| one.path.as_str()).collect();
    assert_eq!((names, skipped.failed), (vec!["out", "pipe"], 0));
    let copy = to.path();
    assert_eq!(
        std::fs::read(copy.join("link")).unwrap(),
        random_bytes(3_000_000)
    );
    assert_eq!(std::fs::read(copy.join("made")).unwrap(), b"ran\n");
    assert!(copy.join("sub/empty").is_dir());
    assert_eq!(
        copy.join("run").metadata().unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert!(std::fs::symlink_metadata(copy.join("out")).is_err());
    assert!(std::fs::symlink_metadata(copy.join("pipe")).is_err());
    let error = files.download_dir("none", copy).await.unwrap_err();
    assert_eq!(error.io_kind(), Some(Io::NotFound), "{error}");
    let error = files
        .upload_dir(&source.join("none"), "x")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Host, "{error}");
    let deep = files.list_recursive("project", 5).await.unwrap();
    assert_eq!(deep.len(), 508);
    assert!(deep.windows(2).all(|pair| pair[0].path < pair[1].path));
    files.remove_all("project").await.unwrap();
    assert_eq!(shell_ok(&sandbox, LEFT).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_reported_as_programs_make_them() {
    let sandbox = sandbox(256).await;
    let files = sandbox.files();
    files.make_dir("d/e").await.unwrap();
    let mut watcher = files.watch("d", true).await.unwrap();
    shell_ok(
        &sandbox,
        "echo x > d/e/f; mv d/e/f d/g; rm d/g; mkdir d/new; sleep 0.2; touch d/new/in",
    )
    .await;

    let mut seen = Vec::new();
    while seen.last() != Some(&(ChangeKind::Created, "new/in".to_string())) {
        let next = tokio::time::timeout(Duration::from_secs(20), watcher.next());
        seen.push(next.await.unwrap().unwrap().unwrap());
    }

    for expected in [
        (ChangeKind::Created, "e/f"),
        (ChangeKind::Modified, "e/f"),
        (ChangeKind::Removed, "e/f"),
        (ChangeKind::Created, "g"),
        (ChangeKind::Removed, "g"),
        (ChangeKind::Created, "new"),
    ] {
        let expected = (expected.0, expected.1.to_string());
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }

    shell_ok(&sandbox, "rm -r d").await;
    let all = async { while watcher.next().await.unwrap().is_some() {} };
    let ended = tokio::time::timeout(Duration::from_secs(20), all).await;
    ended.expect("what is watched is gone");
}
