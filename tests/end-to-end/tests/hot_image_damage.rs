//! Hot images that cannot be used: requests get a VM by another way, and only what is of no use is removed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fumehood_end_to_end::own_store::{BUILD, OwnStore, RUN};
use fumehood_end_to_end::{finish, finish_run, is_long};
use fumehood_engine::{Config, Engine, Language, RunRequest, TemplateUse, VmOrigin};
use serde_json::Value;

/// A change of an image's directory, and a word of the message in the log.
type Damage = (&'static str, fn(&Path), &'static str);

const DAMAGES: [Damage; 9] = [
    (
        "a changed page",
        |image| {
            let pages = File::options().write(true).open(image.join("pages"));
            pages.unwrap().write_all_at(b"!", 12_345).unwrap();
        },
        "it was changed",
    ),
    (
        "missing pages",
        |image| {
            let pages = File::options().write(true).open(image.join("pages"));
            pages.unwrap().set_len(4096).unwrap();
        },
        "it was changed",
    ),
    (
        "no pages",
        |image| fs::remove_file(image.join("pages")).unwrap(),
        "No such file",
    ),
    (
        "a description that ends early",
        |image| {
            let path = image.join("image.json");
            let text = fs::read(&path).unwrap();
            fs::write(&path, &text[..text.len() / 2]).unwrap();
        },
        "EOF",
    ),
    (
        "another version",
        |image| edit(image, |value| value["process"]["version"] = 999.into()),
        "version",
    ),
    (
        "another kernel",
        |image| {
            edit(image, |value| {
                value["process"]["kernel_mappings"][0]["bytes"] = 4096.into();
            });
        },
        "mappings of the kernel differ",
    ),
    (
        "a library that was changed",
        |image| {
            edit(image, |value| {
                let files = value["files"].as_array_mut().unwrap();
                let library = files.iter_mut().find_map(|file| file.get_mut("Library"));
                library.unwrap()[1]["modified"] = 1.into();
            });
        },
        "was changed",
    ),
    (
        "a template that was built again",
        |image| {
            edit(image, |value| {
                let files = value["files"].as_array_mut().unwrap();
                let memory = files
                    .iter_mut()
                    .find_map(|file| file.get_mut("TemplateMemory"));
                memory.unwrap()["inode"] = 1.into();
            });
        },
        "built again",
    ),
    (
        "a process that dies at once",
        |image| {
            edit(image, |value| {
                value["process"]["threads"][0]["registers"]["instruction"] = 0.into();
            });
        },
        "signal: 11",
    ),
];

/// A short test tries the first one of so many.
const SHORT_STEP: usize = 4;

/// Changes the description of an image.
fn edit(image: &Path, change: impl FnOnce(&mut Value)) {
    let path = image.join("image.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

/// The directory of the only image of a store.
fn image(store: &OwnStore) -> PathBuf {
    let [pages] = &store.images()[..] else {
        panic!("one image was expected: {:?}", store.images());
    };
    pages.parent().unwrap().to_owned()
}

/// The inode of an image's directory, if it exists.
fn inode(image: &Path) -> Option<u64> {
    Some(image.metadata().ok()?.ino())
}

/// Checks that a run printed `hi`. Returns where its VM came from, and the log.
fn source_and_log(output: &Output) -> (String, String) {
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["stdout"], "hi\n", "{outcome}");
    (outcome["source"].as_str().unwrap().to_owned(), log)
}

fn run(store: &OwnStore) -> (String, String) {
    let mut command = store.command(&RUN);
    command.env("FUMEHOOD_LOG", "warn");
    source_and_log(&finish(command))
}

#[test]
fn an_image_that_cannot_be_used_is_replaced_by_its_template() {
    let store = OwnStore::new();
    let step = if is_long() { 1 } else { SHORT_STEP };
    for (name, damage, message) in DAMAGES.into_iter().step_by(step) {
        store.build(&[]);
        let path = image(&store);
        damage(&path);
        let damaged = inode(&path);

        let (source, log) = run(&store);
        assert_eq!(source, "template", "{name}: {log}");
        assert!(log.contains(message), "{name}: {log}");
        // A process in the background builds another one.
        assert_ne!(inode(&path), damaged, "{name} was not removed: {log}");
    }

    store.build(&[]);
    assert_eq!(run(&store).0, "hot_image");
}

/// A build does not take an image for usable only because its files are there.
#[test]
fn a_build_replaces_an_image_that_cannot_be_used() {
    let store = OwnStore::new();
    store.build(&[]);
    edit(&image(&store), |value| {
        value["process"]["version"] = 999.into();
    });
    store.build(&[]);
    assert_eq!(run(&store).0, "hot_image");
}

/// A caller that is short of descriptors or memory does not take the image from the others.
#[test]
fn limits_of_a_caller_remove_no_image() {
    let store = OwnStore::new();
    store.build(&[]);
    let before = image(&store);

    for limit in ["-n 40", "-n 44", "-n 52", "-n 64", "-v 300000"] {
        let mut command = Command::new("sh");
        let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        command.args(["-c", &script]).arg(&store.program).args(RUN);
        store.settings(&mut command);
        // Whether it succeeds depends on the limit.
        let output = finish(command);
        assert_eq!(image(&store), before, "{limit}: {output:?}");
    }
    assert_eq!(run(&store).0, "hot_image");
}

/// A process that continues without its virtual processor never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_hangs_is_ended_at_the_deadline() {
    let store = OwnStore::new();
    store.build(&[]);
    edit(&image(&store), |value| {
        let threads = value["process"]["threads"].as_array_mut().unwrap();
        threads.truncate(1);
    });

    let engine = Engine::start(Config {
        store: Some(store.path().to_owned()),
        launcher: Some(store.program.with_file_name("fumehood-launcher")),
        templates: TemplateUse::Use,
        restore_deadline: Duration::from_secs(3),
        ..Config::default()
    });
    let engine = engine.unwrap();
    let request = RunRequest::new(Language::Shell, "echo hi").timeout_s(120);
    let transcript = finish_run(engine.run(request).unwrap()).await;
    assert_eq!(transcript.out(), "hi\n");
    assert_eq!(transcript.outcome.source, VmOrigin::Template);

    let stats = engine.vm_stats();
    assert_eq!((stats.hot_image, stats.template), (0, 1), "{stats:?}");
    assert_eq!(stats.failed_continuations, 1, "{stats:?}");
    assert!(store.images().is_empty(), "{:?}", store.images());
}

#[test]
fn a_full_disk_fails_the_image_but_not_the_template() {
    let store = OwnStore::new();
    store.build(&[]);
    let shelf = image(&store);
    fs::remove_dir_all(&shelf).unwrap();

    let namespace = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };
    let mut command = Command::new("unshare");
    let (program, place) = (store.program.display(), store.path().display());
    let script = format!(
        "mount -t tmpfs -o size=10m none {place}/hot-images && exec {program} {}",
        BUILD.join(" ")
    );
    command.args([namespace, "sh", "-c", &script]);
    store.settings(&mut command);
    command.env("FUMEHOOD_LOG", "warn");
    let output = finish(command);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("10 MB free"), "{log}");
    assert_eq!(run(&store).0, "template");
}
