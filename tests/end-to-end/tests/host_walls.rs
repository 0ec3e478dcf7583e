//! The isolation of a compromised QEMU, tested from the inside by a probe that takes QEMU's place, and from the outside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fumehood_end_to_end::unprivileged::{copy_programs, copy_store};
use fumehood_end_to_end::{
    DEADLINE, descendants, finish, fumehood, program, send, status, test_program, wait_until,
};
use fumehood_qemu::{
    DescriptorIdentity, GuestRange, IsolationLayer, LaunchConfig, Launcher, Process, ProcessSpec,
    ProcessStart, ProcessToSave, ResourceLimits, SavedProcess, User,
};
use rustix::process::Signal;
use serde_json::Value;

/// The verdicts that the tables of docs/design/isolation.md are made of. `cargo xtask walls` writes them.
const VERDICTS: &str = "../../docs/walls/host.json";
const CONTINUED_VERDICTS: &str = "../../docs/walls/continued.json";

const RUN: [&str; 5] = ["run", "-l", "shell", "-c", "1"];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user who runs the command.
#[derive(Debug, Clone, Copy)]
enum Who<'a> {
    /// The user who runs the tests.
    Us,
    /// An ordinary user, with programs and an image here; needs root.
    Nobody(&'a Path),
    /// Root without the right to create namespaces; needs root.
    Bound,
}

impl Who<'_> {
    fn command(self) -> Command {
        let mut command = match self {
            Self::Us => return fumehood(),
            Self::Nobody(_) | Self::Bound => Command::new("setpriv"),
        };

        match self {
            Self::Nobody(place) => command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(place.join("fumehood"))
                .env("FUMEHOOD_HOME", place),
            Self::Us | Self::Bound => command
                .args(["--bounding-set=-sys_admin", "--inh-caps=-all"])
                .arg(program()),
        };

        command
    }

    fn probe(self) -> PathBuf {
        match self {
            Self::Nobody(place) => place.join(PROBE),
            Self::Us | Self::Bound => test_program(PROBE),
        }
    }
}

const PROBE: &str = "fumehood-host-probe";

/// Makes a directory with the image and the programs that `nobody` may read; that user has no access to ours.
fn directory_for_nobody() -> tempfile::TempDir {
    let place = copy_store();
    let _ = copy_programs(place.path());
    std::fs::copy(test_program(PROBE), place.path().join(PROBE)).unwrap();
    place
}

/// Runs the probe in QEMU's place, and returns its verdict on each wall.
fn verdicts(who: Who<'_>) -> Vec<Value> {
    let mut command = who.command();
    command.arg("--qemu").arg(who.probe()).args(RUN);
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text
        .split_once("QEMU's standard error: ")
        .map(|(_, said)| said);
    let said = said.unwrap_or_else(|| panic!("the probe said nothing: {text}"));

    // The end of the console may follow.
    let mut values = serde_json::Deserializer::from_str(said).into_iter();
    values.next().unwrap().unwrap()
}

fn json(who: Who<'_>, options: &[&str]) -> (Value, Output) {
    let mut command = who.command();
    command.args(options).args(RUN).arg("--json");
    let output = finish(command);
    let value = serde_json::from_slice(&output.stdout);
    let value = value.unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (value, output)
}

/// The walls that an outcome names as missing.
fn missing_walls(outcome: &Value) -> Vec<&str> {
    let isolation = &outcome["isolation"];
    if isolation == "full" {
        return Vec::new();
    }

    let reduced = isolation["reduced"].as_array();
    let reduced = reduced.unwrap_or_else(|| panic!("no isolation is told: {outcome}"));
    reduced.iter().filter_map(Value::as_str).collect()
}

/// Checks that all walls of the probe hold, except those that are known to be missing; they are those of the table in
/// docs/design/isolation.md.
fn assert_all_hold(who: Who<'_>, but: &[&str]) {
    let verdicts = verdicts(who);
    assert_documented(&verdicts, VERDICTS);

    for verdict in verdicts {
        let wall = verdict["wall"].as_str().unwrap();
        assert!(
            but.contains(&wall) || verdict["holds"] == true,
            "{who:?}: {verdict:#}"
        );
    }
}

/// Checks that the probe tried what this file of verdicts says.
fn assert_documented(verdicts: &[Value], path: &str) {
    let tried = |verdicts: &[Value]| -> Vec<_> {
        let both = verdicts.iter();
        both.map(|verdict| (verdict["wall"].clone(), verdict["tried"].clone()))
            .collect()
    };

    let written = std::fs::read(documentation(path)).unwrap();
    let written: Vec<Value> = serde_json::from_slice(&written).unwrap();
    assert_eq!(
        tried(verdicts),
        tried(&written),
        "write them anew by `cargo xtask walls`"
    );
}

fn documentation(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_wall_holds_for_the_user_who_runs_the_tests() {
    let (outcome, _) = json(Who::Us, &[]);
    println!("isolation: {}", outcome["isolation"]);

    if missing_walls(&outcome).contains(&"namespaces") {
        println!("this host allows no namespaces: only what stands without is looked at");
        assert_all_hold(Who::Us, OF_NAMESPACES);
    } else {
        assert_all_hold(Who::Us, &[]);
    }
}

/// The walls that namespaces provide. Without them, Landlock and file permissions hold only in part.
const OF_NAMESPACES: &[&str] = &[
    "host's files",
    "root",
    "devices",
    "processes",
    "identity",
    "sockets",
];

#[test]
fn every_wall_holds_for_an_ordinary_user() {
    if !is_root() {
        println!("the tests are run by an ordinary user already");
        return;
    }

    let place = directory_for_nobody();
    let nobody = Who::Nobody(place.path());
    let (outcome, output) = json(nobody, &[]);
    let missing = missing_walls(&outcome);
    println!("isolation: {}", outcome["isolation"]);
    assert_eq!(outcome["exit_code"], 127, "{output:?}");

    if missing.contains(&"namespaces") {
        println!("this host allows ordinary users no namespaces");
        assert_all_hold(nobody, OF_NAMESPACES);
    } else {
        assert!(!missing.contains(&"user"), "{outcome:#}");
        assert_all_hold(nobody, &[]);
    }
}

#[test]
fn a_missing_wall_is_reported_or_rejected() {
    if !is_root() {
        println!("only root can take a right from itself");
        return;
    }

    let (outcome, _) = json(Who::Bound, &[]);
    assert!(
        missing_walls(&outcome).contains(&"namespaces"),
        "{outcome:#}"
    );
    assert_eq!(outcome["exit_code"], 127, "{outcome:#}");
    assert_all_hold(Who::Bound, OF_NAMESPACES);
    let (refused, output) = json(Who::Bound, &["--require-isolation", "full"]);
    assert_eq!(output.status.code(), Some(125), "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();

    for word in ["full isolation is required", "namespaces"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_missing_launcher_is_reported_with_a_fix() {
    let mut command = fumehood();
    command.args(["--launcher", "/nonexistent"]).args(RUN);
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");

    for word in ["/nonexistent", "nothing runs without", "FUMEHOOD_LAUNCHER"] {
        assert!(text.contains(word), "{text}");
    }
}

/// Starts the probe behind all layers of this host. It tries nothing: `start` says what it does.
async fn start_probe(launcher: &Launcher, start: ProcessStart) -> Process {
    let limits = ResourceLimits {
        memory_mib: 512,
        threads: 64,
        processor_percent: 200,
    };
    let started = launcher.start(ProcessSpec { start, limits }).await;
    started.unwrap_or_else(|e| panic!("{e}"))
}

/// What a probe is passed: a socket, and a file. Returns our end of the socket as well.
fn what_is_passed() -> (UnixStream, Vec<OwnedFd>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    let file = File::open(test_program(PROBE)).unwrap();
    (ours, vec![theirs.into(), file.into()])
}

/// Saves a process that waits. It has no guest.
fn save_process(pid: u32, passed: &[DescriptorIdentity]) -> SavedProcess {
    let process = ProcessToSave {
        pid,
        guest_memory: GuestRange { start: 0, bytes: 0 },
        passed,
        unneeded: &[],
        base: &[],
        copied: &[],
        guest: None,
    };
    let saved = SavedProcess::save(process, tempfile::tempfile().unwrap());
    saved.unwrap_or_else(|e| panic!("{e}"))
}

/// The probe waits, is saved as an image, and continues as two processes behind the same launcher.
#[tokio::test]
async fn every_wall_holds_for_a_process_that_continues_from_an_image() {
    let user = match is_root() {
        true => User::Own { gid: None },
        false => User::Same,
    };
    let launcher = Launcher::new(LaunchConfig {
        launcher: program().with_file_name("fumehood-launcher"),
        program: test_program(PROBE),
        devices: Vec::new(),
        user,
        user_of_host_devices: user,
        require_all_layers: false,
    });
    let launcher = launcher.unwrap();

    let (mut owner, inherit) = what_is_passed();
    let identities: Vec<_> = inherit
        .iter()
        .map(|fd| DescriptorIdentity::of(fd).unwrap())
        .collect();
    let args = vec!["wait".into(), inherit[0].as_raw_fd().to_string().into()];
    let probe = start_probe(&launcher, ProcessStart::Execute { args, inherit }).await;
    owner.read_exact(&mut [0]).unwrap();
    let saved = save_process(probe.id(), &identities);
    probe.kill().await;

    for _ in 0..2 {
        let (mut owner, descriptors) = what_is_passed();
        let start = ProcessStart::Continue {
            saved: saved.clone(),
            descriptors,
        };
        let mut continued = start_probe(&launcher, start).await;
        owner.write_all(b"!").unwrap();
        let mut text = String::new();
        let read = owner.read_to_string(&mut text);
        let status = continued.wait().await.unwrap();
        assert!(
            read.is_ok() && status.success(),
            "{read:?} {status}: {}",
            continued.stderr_tail()
        );

        let missing = continued.missing_layers();
        let verdicts: Vec<Value> = serde_json::from_str(&text).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            let json = serde_json::to_string_pretty(&verdicts).unwrap() + "\n";
            std::fs::write(documentation(CONTINUED_VERDICTS), json).unwrap();
        }
        assert_documented(&verdicts, CONTINUED_VERDICTS);
        for verdict in verdicts {
            let wall = verdict["wall"].as_str().unwrap();
            let may_be_missing = missing.contains(&IsolationLayer::Namespaces)
                && [OF_NAMESPACES, &["empty root"]].concat().contains(&wall);
            assert!(may_be_missing || verdict["holds"] == true, "{verdict:#}");
        }
    }
}

/// A run that sleeps, and its QEMU.
fn start_sleeper() -> (Child, u32) {
    let mut command = fumehood();
    command.args([
        "run",
        "-t",
        "170",
        "-l",
        "shell",
        "-c",
        "echo up; sleep 160",
    ]);

    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let qemus = descendants(child.id());
    let [qemu] = qemus[..] else {
        panic!("one QEMU was expected, and no launcher beside it: {qemus:?}");
    };

    (child, qemu)
}

/// Paths of all files below a directory of a process's root.
fn collect_files(root: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(below))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();

        if name == "proc" {
            continue;
        }

        if entry.file_type().unwrap().is_dir() {
            collect_files(root, &name, found);
        } else {
            found.insert(name);
        }
    }
}

#[test]
fn qemu_is_isolated_as_seen_from_outside() {
    let (mut child, qemu) = start_sleeper();
    let (outcome, _) = json(Who::Us, &[]);
    let missing = missing_walls(&outcome);

    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(qemu, set).unwrap(), "0000000000000000", "{set}");
    }

    assert_eq!(status(qemu, "NoNewPrivs").unwrap(), "1");
    assert_eq!(status(qemu, "Seccomp").unwrap(), "2");
    if is_root() && !missing.contains(&"user") {
        let own = (0x7000_0000 + qemu).to_string();
        assert_eq!(status(qemu, "Uid").unwrap(), [own.as_str(); 4].join("\t"));
        assert_eq!(status(qemu, "Groups").unwrap(), "");
    }

    if !missing.contains(&"namespaces") {
        for space in ["pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
            assert_ne!(of(&qemu.to_string()), of("self"), "{space}");
        }

        let mut found = BTreeSet::new();
        collect_files(Path::new(&format!("/proc/{qemu}/root")), "", &mut found);
        for file in &found {
            let is_needed = file.contains("qemu")
                || file.contains(".so")
                || file.contains("seabios")
                || ["etc/ld.so.cache", "dev/null", "dev/urandom", "dev/kvm"]
                    .contains(&file.as_str());
            assert!(is_needed, "{file} is in QEMU's root");
        }

        // A process that continued from a hot image has mapped everything before.
        let executed = std::fs::read_link(format!("/proc/{qemu}/exe")).unwrap();
        let is_continued = executed.ends_with("fumehood-launcher");
        assert!(found.len() > 10 || is_continued, "{found:?}");
        assert!(found.is_empty() || !is_continued, "{found:?}");
    }

    let descriptors = std::fs::read_dir(format!("/proc/{qemu}/fd")).unwrap();
    for entry in descriptors.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        let known = [
            "/dev/null",
            // The same, opened in a root that is gone.
            "/null",
            "/dev/kvm",
            "socket:",
            "pipe:",
            "anon_inode:",
            "/memfd:",
        ];
        let is_part = target.ends_with("rootfs.erofs") || target.contains("/images/");
        assert!(
            is_part || known.iter().any(|known| target.starts_with(known)),
            "{target}"
        );
    }

    send(child.id(), Signal::TERM);
    child.wait().unwrap();
}

/// The directories of a process's own cgroups, as they are mounted here.
fn cgroups(pid: u32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = text.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.strip_prefix('/')?;
        let mount = Path::new("/sys/fs/cgroup").join(controllers.split(',').next()?);
        path.contains("fumehood-").then(|| mount.join(path))
    });

    own.collect()
}

#[test]
fn a_cgroup_limits_qemu_and_is_removed_at_the_next_start() {
    let (mut child, qemu) = start_sleeper();
    let own = cgroups(qemu);
    let (outcome, _) = json(Who::Us, &[]);

    if missing_walls(&outcome).contains(&"cgroup") {
        println!("no cgroup can be made here");
        assert!(own.is_empty(), "{own:?}");
    } else {
        let read = |name: &str| {
            let mut files = own.iter().map(|directory| directory.join(name));
            let file = files.find(|file| file.exists());
            file.map(|file| std::fs::read_to_string(file).unwrap().trim().to_string())
        };

        let memory = read("memory.max")
            .or_else(|| read("memory.limit_in_bytes"))
            .unwrap();

        let memory: u64 = memory.parse().unwrap();
        assert!((512 << 20..2048 << 20).contains(&memory), "{memory}");
        assert_eq!(read("pids.max").as_deref(), Some("96"));
    }

    send(child.id(), Signal::KILL);
    child.wait().unwrap();

    // A process that has ended may still have threads that have not. A start by another test may have swept already.
    let is_empty = |directory: &PathBuf| {
        let processes = std::fs::read_to_string(directory.join("cgroup.procs"));
        processes.map_or(!directory.exists(), |processes| processes.is_empty())
    };
    wait_until("the end of QEMU", || own.iter().all(is_empty));

    // The next start sweeps.
    let (after, _) = json(Who::Us, &[]);
    assert_eq!(after["exit_code"], 127);
    let left: Vec<_> = own.iter().filter(|directory| directory.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_probe_leaves_nothing_behind() {
    let uid = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).map(|m| m.uid());
    let _ = verdicts(Who::Us);
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let copies = pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.ends_with(b"fumehood-host-probe\0survive\0")
    });

    let left: Vec<_> = copies.map(|pid| (pid, uid(pid))).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Runs a program in a VM after a shell command that changes the environment of fumehood.
fn run_after(command: &str) -> Output {
    let mut shell = Command::new("sh");
    let inner = format!("{command}; exec \"$0\" \"$@\"");
    shell.args(["-c", &inner]).arg(program()).args(RUN);
    shell.env("FUMEHOOD_NO_SERVER", "1");
    finish(shell)
}

#[test]
fn vms_start_whatever_the_umask() {
    for umask in ["000", "027", "077"] {
        let output = run_after(&format!("umask {umask}"));
        assert_eq!(output.status.code(), Some(127), "umask {umask}: {output:?}");
    }
}

#[test]
fn few_descriptors_suffice_and_too_few_are_named() {
    let output = run_after("ulimit -n 64");
    assert_eq!(output.status.code(), Some(127), "{output:?}");

    for limit in [6, 16, 32] {
        let output = run_after(&format!("ulimit -n {limit}"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{text}");
        for part in [&format!("may have {limit} "), "needs", "raise"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
