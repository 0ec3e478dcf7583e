//! Templates on disk: building, using, damaging and pruning them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fumehood_end_to_end::{
    descendants, finish, finish_child, fumehood, is_alive, is_restored, json, map_at_once, send,
    wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// A separate store with the images of the real one, and no templates. Hot images are not used.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let real = std::env::var_os("FUMEHOOD_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".local/share/fumehood"),
            PathBuf::from,
        );

        let store = tempfile::tempdir().unwrap();
        symlink(real.join("images"), store.path().join("images")).unwrap();
        Self(store)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fumehood();
        command
            .env("FUMEHOOD_HOME", self.path())
            .env("FUMEHOOD_HOT_IMAGES", "off")
            .args(args);
        command
    }

    fn run_ok(&self, args: &[&str]) -> String {
        let output = finish(self.command(args));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn build(&self) -> String {
        self.run_ok(&["template", "build", "-l", "shell", "--no-network"])
    }

    /// Runs a program; where its VM came from.
    fn source(&self, options: &[&str]) -> String {
        let args = ["run", "--json", "-l", "shell", "-c", "echo hi"];
        let text = self.run_ok(&[&args, options].concat());
        let outcome: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(outcome["stdout"], "hi\n", "{outcome}");
        outcome["source"].as_str().unwrap().to_owned()
    }

    /// Every file below `templates`.
    fn files(&self) -> Vec<PathBuf> {
        let mut directories = vec![self.path().join("templates")];
        let mut files = Vec::new();

        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path);
                }
            }
        }

        files
    }

    fn ram(&self) -> PathBuf {
        let largest = |path: &PathBuf| path.metadata().unwrap().len();
        self.files().into_iter().max_by_key(largest).unwrap()
    }
}

#[test]
fn restored_runs_equal_booted_runs_in_every_language() {
    let programs = [
        (
            "python",
            "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
        ),
        ("python", "def f():\n    return 1 / 0\nf()"),
        ("python", "print('unfinished'"),
        (
            "javascript",
            "console.log('out'); console.error('err'); process.exit(3)",
        ),
        (
            "javascript",
            "const n: number = 1;\nthrow new Error('no ' + n)",
        ),
        (
            "javascript",
            "console.log(import.meta.main, process.argv.length, await Promise.resolve(7))",
        ),
        ("shell", "echo out; echo err >&2; exit 3"),
        ("shell", "nonsense; echo $LINENO $0 $#"),
    ];

    for (language, code) in programs {
        let ways: [&[&str]; 3] = [&[], &["--boot"], &["--fresh-interpreter"]];
        let [(restored, restored_code), (booted, booted_code), (fresh, _)] =
            map_at_once(ways, |options| json(language, code, options));
        let source = restored["source"].as_str().unwrap();
        assert!(is_restored(source), "{restored}");
        assert_eq!(booted["source"], "boot", "{booted}");
        assert_eq!(restored_code, booted_code);

        for field in ["stdout", "stderr", "exit_code", "ended_by"] {
            assert_eq!(restored[field], booted[field], "{field} of {code}");
        }

        assert_eq!(fresh["source"], source);

        // The file main.ts or main.py is taken by the interpreter that waits.
        let fresh = fresh.to_string().replace("main.2.", "main.");
        let fresh: Value = serde_json::from_str(&fresh).unwrap();

        for field in ["stdout", "stderr", "exit_code", "ended_by"] {
            assert_eq!(fresh[field], booted[field], "{field} of {code}");
        }
    }
}

#[test]
fn programs_get_only_their_environment() {
    let code = "import os; print(os.environ['A'], os.environ.get('PRIMED'), os.environ['LANG'])";
    let (value, _) = json("python", code, &["-e", "A=b c", "-e", "LANG=C"]);
    assert_eq!(value["stdout"], "b c None C\n", "{value}");
    let seeded = "print(hash('x'))";
    let options = ["-e", "PYTHONHASHSEED=1"];
    let (one, _) = json("python", seeded, &options);
    let (other, _) = json("python", seeded, &options);
    assert_eq!(one["stdout"], other["stdout"]);
    let (zone, _) = json(
        "python",
        "import time; print(time.localtime(0).tm_hour)",
        &["-e", "TZ=UTC-5"],
    );
    assert_eq!(zone["stdout"], "5\n", "{zone}");
}

#[test]
fn fresh_interpreters_have_separate_random_generators() {
    for (language, code) in [
        ("python", "import random; print(random.random(), hash('x'))"),
        ("javascript", "console.log(Math.random())"),
        ("shell", "echo $RANDOM$RANDOM$RANDOM"),
    ] {
        let run = || json(language, code, &["--fresh-interpreter"]).0["stdout"].clone();
        let (one, other) = (run(), run());
        assert_ne!(one, other);
        assert_ne!(one, "0\n");
    }
}

#[test]
fn a_damaged_template_is_discarded_and_the_run_succeeds() {
    let store = Store::new();
    assert_eq!(store.source(&[]), "boot");
    assert!(
        store.files().is_empty(),
        "a run built a template: {:?}",
        store.files()
    );
    assert!(store.build().contains("built in"));
    assert!(store.build().contains("up to date"));
    assert_eq!(store.source(&[]), "template");
    assert!(
        store
            .run_ok(&["template", "list"])
            .contains(" shell 512 MiB")
    );

    // Other memory has no template, and gets no other's.
    assert_eq!(store.source(&["-m", "256"]), "boot");

    let ram = std::fs::File::options()
        .write(true)
        .open(store.ram())
        .unwrap();
    ram.write_all_at(&[0xff; 8192], 1024 * 1024).unwrap();
    drop(ram);
    assert_eq!(store.source(&[]), "boot");
    assert!(store.run_ok(&["template", "list"]).contains("no templates"));
    assert!(store.build().contains("built in"));
    assert_eq!(store.source(&[]), "template");

    std::fs::File::options()
        .write(true)
        .open(store.ram())
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert_eq!(store.source(&[]), "boot");
    store.build();
    assert!(
        store
            .run_ok(&["template", "prune", "--all"])
            .contains("removed 1 ")
    );
    assert_eq!(store.source(&[]), "boot");
}

#[test]
fn concurrent_builds_make_one_template() {
    let store = Store::new();
    let start = || {
        let mut command = store.command(&["template", "build", "-l", "shell", "--no-network"]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };

    let (one, other) = (start(), start());
    let texts = [one, other].map(|child| {
        let output = finish_child(child);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        String::from_utf8(output.stdout).unwrap()
    });

    let count = |word: &str| texts.iter().filter(|text| text.contains(word)).count();
    assert_eq!(
        (count("built in"), count("up to date")),
        (1, 1),
        "{texts:?}"
    );
    assert_eq!(store.source(&[]), "template");
}

#[test]
fn a_killed_build_leaves_nothing_usable() {
    let store = Store::new();
    // At several moments: as QEMU boots, as it is warm, as it is saved.
    for moment in [0, 300, 900, 1500, 2500] {
        let mut command = store.command(&["template", "build", "-l", "shell", "--no-network"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();

        let mut qemus = Vec::new();
        wait_until("QEMU's start", || {
            qemus = descendants(child.id());
            !qemus.is_empty() || !is_alive(child.id())
        });
        std::thread::sleep(std::time::Duration::from_millis(moment));
        if child.try_wait().unwrap().is_some() {
            break;
        }

        send(child.id(), Signal::KILL);
        child.wait().unwrap();
        wait_until("the end of QEMU", || {
            !qemus.iter().any(|&pid| is_alive(pid))
        });

        let source = store.source(&[]);
        assert!(["boot", "template"].contains(&source.as_str()), "{source}");
    }

    store.build();
    assert_eq!(store.source(&[]), "template");
    let ram: Vec<_> = store
        .files()
        .into_iter()
        .filter(|path| path.metadata().unwrap().len() > 1 << 20)
        .collect();
    assert_eq!(ram.len(), 1, "half-made templates are left: {ram:?}");
}

/// The disk that templates lie on has 10 MB: the run succeeds, and a build says why it did not.
#[test]
fn a_full_disk_fails_the_template_but_not_the_run() {
    let store = Store::new();
    std::fs::create_dir(store.path().join("templates")).unwrap();

    let namespace = if rustix::process::geteuid().is_root() {
        "-m"
    } else {
        "-rm"
    };

    let on_a_small_disk = |args: &str| {
        let mut unshare = Command::new("unshare");
        let (program, store) = (fumehood_end_to_end::program(), store.path().display());
        let script = format!(
            "mount -t tmpfs -o size=10m none {store}/templates && exec {} {args}",
            program.display()
        );

        unshare
            .args([namespace, "sh", "-c", &script])
            .env("FUMEHOOD_HOME", store.to_string())
            .env("FUMEHOOD_HOT_IMAGES", "off");

        finish(unshare)
    };

    let built = on_a_small_disk("template build -l raw");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(!built.status.success(), "{stderr}");
    assert!(stderr.contains("10 MB free"), "{stderr}");
    let run = on_a_small_disk("run -l raw -c 'echo hi'");
    assert_eq!(
        run.stdout,
        b"hi\n",
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
