//! Files of one-shot runs: uploads before the program, and downloads after it, however it ended.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::{RunTranscript, collect, engine, random_bytes, shell, within_deadline};
use fumehood_engine::{Download, DownloadTarget, EndedBy, Event, RunRequest};
use serde_json::{Value, json};

async fn run(request: RunRequest) -> RunTranscript {
    let engine = engine();
    let run = engine.run(request).unwrap();
    let transcript = within_deadline("the run's end", collect(run)).await;
    transcript.unwrap()
}

fn content(download: &Download) -> &[u8] {
    assert_eq!(download.error, None, "{download:?}");
    download.content.as_deref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_before_the_program_and_come_out_after_it() {
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/text"), "in a directory\n").unwrap();
    std::fs::write(source.join("tool"), "#!/bin/sh\necho it runs\n").unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(source.join("tool"), executable).unwrap();
    let target = local.path().join("target");

    let bytes = random_bytes(300_000);
    let code = "cat data/sub/text; data/tool; cp new/dir/bytes copy; mkdir -p out/deep; echo made > out/deep/file";
    let request = shell(code)
        .upload(bytes.clone(), "new/dir/bytes")
        .upload(source.as_path(), "data")
        .download("copy", DownloadTarget::Memory)
        .download("copy", local.path().join("copy"))
        .download("copy", local.path())
        .download("out", target.as_path());

    let ended = run(request).await;
    assert_eq!(ended.end(), (EndedBy::Exited, Some(0)), "{}", ended.err());
    assert_eq!(ended.out(), "in a directory\nit runs\n");

    let downloads = &ended.outcome.downloads;
    assert_eq!(downloads.len(), 4);
    assert!(content(&downloads[0]) == bytes);
    for download in &downloads[..3] {
        assert_eq!(download.error, None, "{download:?}");
        assert_eq!(download.bytes, Some(300_000), "{download:?}");
    }

    // A file that is downloaded into a directory keeps its name.
    let copy = local.path().join("copy");
    assert_eq!(downloads[1].local.as_ref(), Some(&copy));
    assert_eq!(downloads[2].local.as_ref(), Some(&copy));
    assert!(std::fs::read(copy).unwrap() == bytes);

    assert_eq!((&downloads[3].error, downloads[3].bytes), (&None, None));
    let made = std::fs::read_to_string(target.join("deep/file"));
    assert_eq!(made.unwrap(), "made\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_of_a_directory_is_copied_or_reported() {
    let local = tempfile::tempdir().unwrap();
    let source = local.path().join("in");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), "hard\n").unwrap();
    std::fs::hard_link(source.join("a"), source.join("b")).unwrap();
    std::fs::write(source.join("-x\ny"), "odd\n").unwrap();
    std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    for (name, seconds) in [("1960", -315_619_200), ("2300", 10_413_792_000)] {
        std::fs::write(source.join(name), name).unwrap();
        set_time(&source.join(name), seconds);
    }
    let holes = std::fs::File::create(source.join("holes")).unwrap();
    holes.set_len(1 << 40).unwrap();

    let code = r#"
        cd in; stat -c '%n %h %s %Y' a b 1960 2300 holes | sort; cat -- -x*; rm holes
        truncate -s 20M sparse; echo end >> sparse; truncate -s 2G large
        ln -s /etc/passwd absolute; ln -s ../.. up; ln -s a relative; ln -s none dangling; ln -s loop loop
        mkfifo pipe; ln pipe pipe2; echo > locked; chmod 0 locked; mkdir -m 0 closed
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("new: socket")'
    "#;
    let out = local.path().join("out");
    let request = shell(code)
        .upload(source.as_path(), "in")
        .download("in", out.as_path());
    let ended = run(request).await;
    assert_eq!(ended.end(), (EndedBy::Exited, Some(0)), "{}", ended.err());
    let lines: Vec<_> = ended.out().lines().map(str::to_owned).collect();
    let expected = [
        "1960 1 4 -315619200",
        "2300 1 4 10413792000",
        "a 2 5 ",
        "b 2 5 ",
        "holes 1 1099511627776 ",
        "odd",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{lines:?}");
    }

    let skipped = &ended.outcome.skipped_uploads;
    assert_eq!((skipped.count, skipped.failed), (1, 0), "{skipped:?}");
    let socket = source.join("socket");
    assert_eq!(skipped.files[0].path, socket.to_str().unwrap());

    let download = &ended.outcome.downloads[0];
    let skipped = &download.skipped;
    let mut names: Vec<_> = skipped.files.iter().map(|one| one.path.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "absolute",
            "closed",
            "large",
            "locked",
            "new: socket",
            "pipe",
            "pipe2",
            "up"
        ],
        "{skipped:#?}"
    );
    assert_eq!(skipped.failed, 3, "{skipped:#?}");
    let error = download.error.as_deref().unwrap();
    assert!(error.starts_with("3 of its files"), "{error}");

    let inode = |name: &str| std::fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(std::fs::read(out.join("-x\ny")).unwrap(), b"odd\n");
    let old = std::fs::metadata(out.join("1960")).unwrap();
    assert_eq!(old.mtime(), -315_619_200);
    let sparse = std::fs::metadata(out.join("sparse")).unwrap();
    assert_eq!(sparse.len(), (20 << 20) + 4);
    assert!(sparse.blocks() * 512 < 1 << 20);
    for link in ["relative", "dangling", "loop"] {
        assert!(out.join(link).is_symlink(), "{link}");
    }
}

fn set_time(path: &std::path::Path, seconds: i64) {
    let time = std::time::SystemTime::UNIX_EPOCH;
    let offset = std::time::Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        time - offset
    } else {
        time + offset
    };
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_download_leaves_the_others_and_no_file() {
    let local = tempfile::tempdir().unwrap();
    let request = shell("echo a > a; mkdir directory; exit 3")
        .download("missing", local.path().join("missing"))
        .download("a", DownloadTarget::Memory)
        .download("directory", DownloadTarget::Memory)
        .download("a", local.path().join("a"));

    let ended = run(request).await;
    assert_eq!(ended.end(), (EndedBy::Exited, Some(3)));

    let downloads = &ended.outcome.downloads;
    let remotes: Vec<_> = downloads.iter().map(|one| one.remote.as_str()).collect();
    assert_eq!(remotes, ["missing", "a", "directory", "a"]);

    for failed in [&downloads[0], &downloads[2]] {
        assert!(failed.error.is_some(), "{failed:?}");
        assert_eq!((failed.bytes, &failed.content), (None, &None));
    }

    assert_eq!(content(&downloads[1]), b"a\n");
    assert_eq!(std::fs::read(local.path().join("a")).unwrap(), b"a\n");
    let names = std::fs::read_dir(local.path()).unwrap();
    assert_eq!(names.count(), 1, "a temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_downloaded_after_a_timeout_and_after_a_cancellation() {
    let ended = run(shell("echo kept > a; exec sleep 1000")
        .timeout_s(5)
        .download("a", DownloadTarget::Memory))
    .await;
    assert_eq!(ended.end(), (EndedBy::Timeout, Some(124)));
    assert_eq!(content(&ended.outcome.downloads[0]), b"kept\n");

    let request = shell("echo kept > a; echo up; exec sleep 1000");
    let request = request.download("a", DownloadTarget::Memory);
    let engine = engine();
    let mut cancelled = engine.run(request).unwrap();
    let outcome = within_deadline("the outcome", async {
        // A second cancellation would stop the downloads.
        let (mut is_up, mut has_ended) = (false, false);
        while let Some(event) = cancelled.next().await {
            match event {
                Event::Stdout(_) if !is_up => {
                    is_up = true;
                    cancelled.canceller().cancel();
                }
                Event::ProgramEnded => has_ended = true,
                _ => {}
            }
        }

        assert!(has_ended);
        cancelled.outcome().await.unwrap()
    });

    let outcome = outcome.await;
    assert_eq!(outcome.ended_by, EndedBy::Cancelled);
    assert_eq!(content(&outcome.downloads[0]), b"kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_into_memory_are_limited_together() {
    let code = "truncate -s 1G sparse; head -c 1001 /dev/zero > large; ln -s large link; head -c 1000 /dev/zero > a";
    let request = shell(code)
        .memory_download_limit(1000)
        .download("sparse", DownloadTarget::Memory)
        .download("large", DownloadTarget::Memory)
        .download("link", DownloadTarget::Memory)
        .download("a", DownloadTarget::Memory)
        .download("a", DownloadTarget::Memory);

    let ended = run(request).await;
    assert_eq!(ended.end(), (EndedBy::Exited, Some(0)), "{}", ended.err());

    let downloads = &ended.outcome.downloads;
    for large in &downloads[..3] {
        let error = large.error.as_deref().unwrap_or_default();
        assert!(error.contains("1000 bytes"), "{large:?}");
    }

    // The first file that fits takes the whole limit.
    assert_eq!(content(&downloads[3]), vec![0; 1000]);
    assert!(downloads[4].error.is_some(), "{:?}", downloads[4]);
}

/// Runs a request over HTTP; returns the run.
async fn post(client: &mut Client, body: &Value, status: u16) -> Value {
    client.json("POST", "/v1/runs", body, status).await
}

#[tokio::test]
async fn files_are_part_of_a_run_over_http() {
    let server = Server::start(&[]);
    let mut client = server.client().await;

    let mut body = json!({
        "language": "shell",
        "code": "cat in.txt sub/in.bin > out; head -c 300 /dev/zero > nul; cp in.txt text",
        "uploads": [{ "path": "in.txt", "text": "né\n" }, { "path": "sub/in.bin", "base64": "AP8=" }],
        "downloads": ["out", "missing", "text", "nul"],
    });

    let run = post(&mut client, &body, 200).await;
    assert_eq!(run["exit_code"], 0, "{run}");
    let nul = "AAAA".repeat(100);
    let files = json!([
        { "path": "out", "base64": "bsOpCgD/" },
        { "path": "text", "text": "né\n" },
        { "path": "nul", "base64": nul },
    ]);
    assert_eq!(run["files"], files);

    let downloads = run["downloads"].as_array().unwrap();
    assert_eq!(downloads.len(), 4);
    assert_eq!(downloads[0], json!({ "remote": "out", "bytes": 6 }));
    assert_eq!(downloads[1]["remote"], "missing");
    assert!(downloads[1]["error"].is_string() && downloads[1].get("bytes").is_none());

    // The same as events, before the last one.
    let events = server.client().await;
    let events = events.events("POST", "/v1/runs", &[], &body).await;
    let events = events.all().await;
    let sent: Vec<_> = events.iter().filter(|sent| sent.name == "file").collect();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[1].data, files[1]);
    let last = &events[events.len() - 1];
    assert_eq!(last.name, "ended");
    assert_eq!(last.data["downloads"].as_array().unwrap().len(), 4);

    // More than 8 MiB are a failed download.
    body["code"] = "head -c 8388609 /dev/zero > large; echo x > small".into();
    body["downloads"] = json!(["large", "small"]);
    let run = post(&mut client, &body, 200).await;
    let error = run["downloads"][0]["error"].as_str().unwrap();
    assert!(error.contains("8388608"), "{error}");
    assert_eq!(run["files"], json!([{ "path": "small", "text": "x\n" }]));

    // An upload that the guest rejects makes the request invalid, and the code is not run.
    body["uploads"] = json!([{ "path": "/etc/new", "text": "x" }]);
    let failed = post(&mut client, &body, 400).await;
    let error = &failed["error"];
    assert_eq!(
        (&error["kind"], &error["retry"]),
        (&json!("invalid"), &json!("never"))
    );
    assert!(error["message"].as_str().unwrap().contains("/etc/new"));
}
