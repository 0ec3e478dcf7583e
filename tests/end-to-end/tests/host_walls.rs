XX/! The isolation of a compromised QEMU, tested from the inside by a probe that takes QEMU's place, and from the outside.
#![XXllow(clippy::unwrap_used, reason = "a test fails by panicking")]

XXse std::collections::BTreeSet;
XXse std::os::unix::fs::MetadataExt;
XXse std::path::{Path, PathBuf};
XXse std::process::{Child, Command, Output, Stdio};

XXse fumehood_end_to_end::unprivileged::{copy_programs, copy_store};
XXse fumehood_end_to_end::{
XX   descendants, finish, fumehood, program, send, status, test_program, wait_until,
};
XXse rustix::process::Signal;
XXse serde_json::Value;

XX// The verdicts that the table of docs/design/isolation.md is made of. `cargo xtask walls` writes them.
XXonst VERDICTS: &str = "../../docs/walls/host.json";

XXonst RUN: [&str; 5] = ["run", "-l", "shell", "-c", "1"];

XXn is_root() -> bool {
XX   rustix::process::geteuid().is_root()
}

XX// A user who runs the command.
#[XXerive(Debug, Clone, Copy)]
XXnum Who<'a> {
XX   /// The user who runs the tests.
XX   Us,
XX   /// An ordinary user, with programs and an image here; needs root.
XX   Nobody(&'a Path),
XX   /// Root without the right to create namespaces; needs root.
XX   Bound,
}

XXmpl Who<'_> {
XX   fn command(self) -> Command {
XX       let mut command = match self {
XX           Self::Us => return fumehood(),
XX           Self::Nobody(_) | Self::Bound => Command::new("setpriv"),
XX       };

XX       match self {
XX           Self::Nobody(place) => command
XX               .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
XX               .arg(place.join("fumehood"))
XX               .env("FUMEHOOD_HOME", place),
XX           Self::Us | Self::Bound => command
XX               .args(["--bounding-set=-sys_admin", "--inh-caps=-all"])
XX               .arg(program()),
XX       };

XX       command
XX   }

XX   fn probe(self) -> PathBuf {
XX       match self {
XX           Self::Nobody(place) => place.join(PROBE),
XX           Self::Us | Self::Bound => test_program(PROBE),
XX       }
XX   }
}

XXonst PROBE: &str = "fumehood-host-probe";

XX// Makes a directory with the image and the programs that `nobody` may read; that user has no access to ours.
XXn directory_for_nobody() -> tempfile::TempDir {
XX   let place = copy_store();
XX   let _ = copy_programs(place.path());
XX   std::fs::copy(test_program(PROBE), place.path().join(PROBE)).unwrap();
XX   place
}

XX// Runs the probe in QEMU's place, and returns its verdict on each wall.
XXn verdicts(who: Who<'_>) -> Vec<Value> {
XX   let mut command = who.command();
XX   command.arg("--qemu").arg(who.probe()).args(RUN);
XX   let output = finish(command);
XX   let text = String::from_utf8_lossy(&output.stderr);
XX   let said = text
XX       .split_once("QEMU's standard error: ")
XX       .map(|(_, said)| said);
XX   let said = said.unwrap_or_else(|| panic!("the probe said nothing: {text}"));

XX   // The end of the console may follow.
XX   let mut values = serde_json::Deserializer::from_str(said).into_iter();
XX   values.next().unwrap().unwrap()
}

XXn json(who: Who<'_>, options: &[&str]) -> (Value, Output) {
XX   let mut command = who.command();
XX   command.args(options).args(RUN).arg("--json");
XX   let output = finish(command);
XX   let value = serde_json::from_slice(&output.stdout);
XX   let value = value.unwrap_or_else(|e| panic!("{e}: {output:?}"));
XX   (value, output)
}

XX// The walls that an outcome names as missing.
XXn missing_walls(outcome: &Value) -> Vec<&str> {
XX   let isolation = &outcome["isolation"];
XX   if isolation == "full" {
XX       return Vec::new();
XX   }

XX   let reduced = isolation["reduced"].as_array();
XX   let reduced = reduced.unwrap_or_else(|| panic!("no isolation is told: {outcome}"));
XX   reduced.iter().filter_map(Value::as_str).collect()
}

XX// Checks that all walls of the probe hold, except those that are known to be missing; they are those of the table in
XX// docs/design/isolation.md.
XXn assert_all_hold(who: Who<'_>, but: &[&str]) {
XX   let verdicts = verdicts(who);
XX   let names = |verdicts: &[Value]| -> Vec<_> {
XX       let both = verdicts.iter();
XX       both.map(|verdict| (verdict["wall"].clone(), verdict["tried"].clone()))
XX           .collect()
XX   };

XX   let written = Path::new(env!("CARGO_MANIFEST_DIR")).join(VERDICTS);
XX   let written: Vec<Value> = serde_json::from_slice(&std::fs::read(written).unwrap()).unwrap();
XX   assert_eq!(
XX       names(&verdicts),
XX       names(&written),
XX       "write them anew by `cargo xtask walls`"
XX   );

XX   for verdict in verdicts {
XX       let wall = verdict["wall"].as_str().unwrap();
XX       assert!(
XX           but.contains(&wall) || verdict["holds"] == true,
XX           "{who:?}: {verdict:#}"
XX       );
XX   }
}

#[XXest]
XXn every_wall_holds_for_the_user_who_runs_the_tests() {
XX   let (outcome, _) = json(Who::Us, &[]);
XX   println!("isolation: {}", outcome["isolation"]);

XX   if missing_walls(&outcome).contains(&"namespaces") {
XX       println!("this host allows no namespaces: only what stands without is looked at");
XX       assert_all_hold(Who::Us, OF_NAMESPACES);
XX   } else {
XX       assert_all_hold(Who::Us, &[]);
XX   }
}

XX// The walls that namespaces provide. Without them, Landlock and file permissions hold only in part.
XXonst OF_NAMESPACES: &[&str] = &[
XX   "host's files",
XX   "root",
XX   "devices",
XX   "processes",
XX   "identity",
XX   "sockets",
];

#[XXest]
XXn every_wall_holds_for_an_ordinary_user() {
XX   if !is_root() {
XX       println!("the tests are run by an ordinary user already");
XX       return;
XX   }

XX   let place = directory_for_nobody();
XX   let nobody = Who::Nobody(place.path());
XX   let (outcome, output) = json(nobody, &[]);
XX   let missing = missing_walls(&outcome);
XX   println!("isolation: {}", outcome["isolation"]);
XX   assert_eq!(outcome["exit_code"], 127, "{output:?}");

XX   if missing.contains(&"namespaces") {
XX       println!("this host allows ordinary users no namespaces");
XX       assert_all_hold(nobody, OF_NAMESPACES);
XX   } else {
XX       assert!(!missing.contains(&"user"), "{outcome:#}");
XX       assert_all_hold(nobody, &[]);
XX   }
}

#[XXest]
XXn a_missing_wall_is_reported_or_rejected() {
XX   if !is_root() {
XX       println!("only root can take a right from itself");
XX       return;
XX   }

XX   let (outcome, _) = json(Who::Bound, &[]);
XX   assert!(
XX       missing_walls(&outcome).contains(&"namespaces"),
XX       "{outcome:#}"
XX   );
XX   assert_eq!(outcome["exit_code"], 127, "{outcome:#}");
XX   assert_all_hold(Who::Bound, OF_NAMESPACES);
XX   let (refused, output) = json(Who::Bound, &["--require-isolation", "full"]);
XX   assert_eq!(output.status.code(), Some(125), "{refused}");
XX   let message = refused["error"]["message"].as_str().unwrap();

XX   for word in ["full isolation is required", "namespaces"] {
XX       assert!(message.contains(word), "{message}");
XX   }
}

#[XXest]
XXn a_missing_launcher_is_reported_with_a_fix() {
XX   let mut command = fumehood();
XX   command.args(["--launcher", "/nonexistent"]).args(RUN);
XX   let output = finish(command);
XX   let text = String::from_utf8_lossy(&output.stderr);
XX   assert_eq!(output.status.code(), Some(125), "{text}");

XX   for word in ["/nonexistent", "nothing runs without", "FUMEHOOD_LAUNCHER"] {
XX       assert!(text.contains(word), "{text}");
XX   }
}

XX// A run that sleeps, and its QEMU.
XXn start_sleeper() -> (Child, u32) {
XX   use std::io::Read;
XX   let mut command = fumehood();
XX   command.args([
XX       "run",
XX       "-t",
XX       "170",
XX       "-l",
XX       "shell",
XX       "-c",
XX       "echo up; sleep 160",
XX   ]);

XX   let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
XX   let mut up = [0; 3];
XX   child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
XX   let qemus = descendants(child.id());
XX   let [qemu] = qemus[..] else {
XX       panic!("one QEMU was expected, and no launcher beside it: {qemus:?}");
XX   };

XX   (child, qemu)
}

XX// Paths of all files below a directory of a process's root.
XXn collect_files(root: &Path, below: &str, found: &mut BTreeSet<String>) {
XX   for entry in std::fs::read_dir(root.join(below))
XX       .into_iter()
XX       .flatten()
XX       .flatten()
XX   {
XX       let path = entry.path();
XX       let name = path
XX           .strip_prefix(root)
XX           .unwrap()
XX           .to_string_lossy()
XX           .into_owned();

XX       if name == "proc" {
XX           continue;
XX       }

XX       if entry.file_type().unwrap().is_dir() {
XX           collect_files(root, &name, found);
XX       } else {
XX           found.insert(name);
XX       }
XX   }
}

#[XXest]
XXn qemu_is_isolated_as_seen_from_outside() {
XX   let (mut child, qemu) = start_sleeper();
XX   let (outcome, _) = json(Who::Us, &[]);
XX   let missing = missing_walls(&outcome);

XX   for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
XX       assert_eq!(status(qemu, set).unwrap(), "0000000000000000", "{set}");
XX   }

XX   assert_eq!(status(qemu, "NoNewPrivs").unwrap(), "1");
XX   assert_eq!(status(qemu, "Seccomp").unwrap(), "2");
XX   if is_root() && !missing.contains(&"user") {
XX       let own = (0x7000_0000 + qemu).to_string();
XX       assert_eq!(status(qemu, "Uid").unwrap(), [own.as_str(); 4].join("\t"));
XX       assert_eq!(status(qemu, "Groups").unwrap(), "");
XX   }

XX   if !missing.contains(&"namespaces") {
XX       for space in ["pid", "mnt", "net", "ipc", "uts", "cgroup"] {
XX           let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
XX           assert_ne!(of(&qemu.to_string()), of("self"), "{space}");
XX       }

XX       let mut found = BTreeSet::new();
XX       collect_files(Path::new(&format!("/proc/{qemu}/root")), "", &mut found);
XX       for file in &found {
XX           let is_needed = file.contains("qemu")
XX               || file.contains(".so")
XX               || file.contains("seabios")
XX               || ["etc/ld.so.cache", "dev/null", "dev/urandom", "dev/kvm"]
XX                   .contains(&file.as_str());
XX           assert!(is_needed, "{file} is in QEMU's root");
XX       }

XX       assert!(found.len() > 10, "{found:?}");
XX   }

XX   let descriptors = std::fs::read_dir(format!("/proc/{qemu}/fd")).unwrap();
XX   for entry in descriptors.flatten() {
XX       let target = std::fs::read_link(entry.path()).unwrap_or_default();
XX       let target = target.to_string_lossy().into_owned();
XX       let known = ["/dev/null", "socket:", "pipe:", "anon_inode:", "/memfd:"];
XX       let is_part = target.ends_with("rootfs.erofs") || target.contains("/images/");
XX       assert!(
XX           is_part || known.iter().any(|known| target.starts_with(known)),
XX           "{target}"
XX       );
XX   }

XX   send(child.id(), Signal::TERM);
XX   child.wait().unwrap();
}

XX// The directories of a process's own cgroups, as they are mounted here.
XXn cgroups(pid: u32) -> Vec<PathBuf> {
XX   let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
XX   let own = text.lines().filter_map(|line| {
XX       let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
XX       let path = path.strip_prefix('/')?;
XX       let mount = Path::new("/sys/fs/cgroup").join(controllers.split(',').next()?);
XX       path.contains("fumehood-").then(|| mount.join(path))
XX   });

XX   own.collect()
}

#[XXest]
XXn a_cgroup_limits_qemu_and_is_removed_at_the_next_start() {
XX   let (mut child, qemu) = start_sleeper();
XX   let own = cgroups(qemu);
XX   let (outcome, _) = json(Who::Us, &[]);

XX   if missing_walls(&outcome).contains(&"cgroup") {
XX       println!("no cgroup can be made here");
XX       assert!(own.is_empty(), "{own:?}");
XX   } else {
XX       let read = |name: &str| {
XX           let mut files = own.iter().map(|directory| directory.join(name));
XX           let file = files.find(|file| file.exists());
XX           file.map(|file| std::fs::read_to_string(file).unwrap().trim().to_string())
XX       };

XX       let memory = read("memory.max")
XX           .or_else(|| read("memory.limit_in_bytes"))
XX           .unwrap();

XX       let memory: u64 = memory.parse().unwrap();
XX       assert!((512 << 20..2048 << 20).contains(&memory), "{memory}");
XX       assert_eq!(read("pids.max").as_deref(), Some("96"));
XX   }

XX   send(child.id(), Signal::KILL);
XX   child.wait().unwrap();

XX   // A process that has ended may still have threads that have not. A start by another test may have swept already.
XX   let is_empty = |directory: &PathBuf| {
XX       let processes = std::fs::read_to_string(directory.join("cgroup.procs"));
XX       processes.map_or(!directory.exists(), |processes| processes.is_empty())
XX   };
XX   wait_until("the end of QEMU", || own.iter().all(is_empty));

XX   // The next start sweeps.
XX   let (after, _) = json(Who::Us, &[]);
XX   assert_eq!(after["exit_code"], 127);
XX   let left: Vec<_> = own.iter().filter(|directory| directory.exists()).collect();
XX   assert!(left.is_empty(), "{left:?}");
}

#[XXest]
XXn the_probe_leaves_nothing_behind() {
XX   let uid = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).map(|m| m.uid());
XX   let _ = verdicts(Who::Us);
XX   let all = std::fs::read_dir("/proc").unwrap().flatten();
XX   let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
XX   let copies = pids.filter(|pid| {
XX       let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
XX       line.ends_with(b"fumehood-host-probe\0survive\0")
XX   });

XX   let left: Vec<_> = copies.map(|pid| (pid, uid(pid))).collect();
XX   assert!(left.is_empty(), "{left:?}");
}
