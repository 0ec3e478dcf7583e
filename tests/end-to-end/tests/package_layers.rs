//! Packages that a run asks for are installed once and reused. The indexes are the tests' own, in a network namespace
//! without a way out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use fumehood_end_to_end::index::{
    FileServer, JAVASCRIPT_INDEX, PYTHON_INDEX, build_index, isolated_store,
};
use fumehood_end_to_end::netns::in_private_netns;
use fumehood_end_to_end::servers::CertificateAuthority;
use fumehood_end_to_end::{finish, finish_child, program, send, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The name of an index, which resolves only for the command.
const NAME: &str = "index.test";

/// Addresses of the indexes: private ones, which the user's configuration names.
const PYTHON: &str = "10.66.0.1:8000";
const JAVASCRIPT: &str = "10.66.0.1:8001";
const CLOSED: &str = "10.66.0.1:8009";
const SILENT: &str = "10.66.0.1:8010";
const SEALED: &str = "10.66.0.1:8443";

/// A separate store with the user's images, and a configuration of the command that names the tests' indexes.
struct Environment {
    directory: TempDir,
    variables: Vec<(String, String)>,
    /// The umask of commands.
    umask: &'static str,
}

impl Environment {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = isolated_store(directory.path());
        std::fs::write(
            directory.path().join("hosts"),
            format!("10.66.0.1 {NAME}\n"),
        )
        .unwrap();

        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = vec![
            set("FUMEHOOD_HOME", store.to_str().unwrap()),
            set("HOME", directory.path().to_str().unwrap()),
            set("PIP_CONFIG_FILE", "/dev/null"),
            set("UV_DEFAULT_INDEX", &format!("http://{PYTHON}/")),
            set("NPM_CONFIG_REGISTRY", &format!("http://{JAVASCRIPT}/")),
            set("NPM_CONFIG_USERCONFIG", "/dev/null"),
        ];

        Self {
            directory,
            variables,
            umask: "022",
        }
    }

    /// Serves the index of Python packages.
    fn serve_python(&self) -> FileServer {
        FileServer::new(&self.index(PYTHON_INDEX, "index"), None).listen(PYTHON)
    }

    fn index(&self, script: &str, name: &str) -> PathBuf {
        build_index(script, name, self.directory.path())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }

        // Names are looked up as on a host that has this file.
        let script = format!(
            "mount --bind \"$HOME/hosts\" /etc/hosts && umask {} && exec \"$0\" \"$@\"",
            self.umask
        );
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(program());
        let configured = [
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "UV_INDEX",
            "UV_INDEX_URL",
        ];

        for name in configured {
            command.env_remove(name);
        }

        command
            .args(args)
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null());

        command
    }

    fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args))
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Returns what a run with these packages prints to standard output and standard error.
    fn prints(&self, language: &str, packages: &[&str], code: &str) -> (String, String) {
        let mut args = vec!["run", "-l", language, "-c", code];
        packages
            .iter()
            .for_each(|package| args.extend(["-p", package]));
        let ended = self.run(&args);
        assert!(ended.status.success(), "{}", stderr_text(&ended));
        let stdout = String::from_utf8(ended.stdout.clone()).unwrap();
        (stdout, stderr_text(&ended))
    }

    /// Starts a run with these packages and options that fails.
    fn start_failing(&self, packages: &[&str], options: &[&str]) -> Child {
        let mut args = vec!["run", "--json", "-q", "-l", "python", "-c", "1"];
        packages
            .iter()
            .for_each(|package| args.extend(["-p", package]));
        args.extend(options);
        self.start(&args)
    }

    /// Returns kind, retry and message of the failure of a run with these packages and options.
    fn fails(&self, packages: &[&str], options: &[&str]) -> (String, String, String) {
        failure(self.start_failing(packages, options))
    }

    fn layers(&self) -> Vec<String> {
        let listed = self.run(&["layer", "list"]);
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("no layers"));
        lines.map(str::to_owned).collect()
    }
}

/// Waits for the end of a run that fails, and returns the failure's kind, retry and message.
fn failure(run: Child) -> (String, String, String) {
    let ended = finish_child(run);
    assert_eq!(ended.status.code(), Some(125), "{}", stderr_text(&ended));
    let object: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let text = |name: &str| {
        object["error"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };

    (text("kind"), text("retry"), text("message"))
}

fn stderr_text(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

/// Returns how often a VM was started to install packages.
fn builders(stderr: &str) -> usize {
    stderr.matches("starting a VM").count()
}

/// Runs the program of the package from each place that starts programs.
const RUNS_PROGRAM: &str = "import subprocess
for command in (['tiny-program'], ['bash', '-c', 'tiny-program'], ['python', '-c', 'import tiny; tiny.main()']):
    print(subprocess.run(command, capture_output=True, text=True).stdout.strip())";

const USES_TINY: &str = "import user_of_tiny; print(user_of_tiny.VALUE)";

#[test]
fn packages_are_installed_once_and_reused() {
    in_private_netns("packages_are_installed_once_and_reused", || async {
        let environment = Environment::new();
        let server = environment.serve_python();
        let (printed, stderr) = environment.prints("python", &["user_of_tiny>=0.1"], USES_TINY);
        assert_eq!(printed, "15\n");
        assert_eq!(builders(&stderr), 1, "{stderr}");
        let layers = environment.layers();
        assert!(
            layers[0].contains("tiny 1.5, user-of-tiny 0.3"),
            "{layers:?}"
        );

        // Written differently, the same packages need no request to the index, and their template exists.
        let requests_before = server.requests().len();
        let packages = ["User.Of.Tiny >= 0.1"];
        let (printed, stderr) = environment.prints("python", &packages, USES_TINY);
        assert_eq!((printed.as_str(), stderr.as_str()), ("15\n", ""));
        assert_eq!(server.requests().len(), requests_before);
        let again = [
            "run",
            "--json",
            "-l",
            "python",
            "-p",
            packages[0],
            "-c",
            USES_TINY,
        ];
        let object: Value = serde_json::from_slice(&environment.run(&again).stdout).unwrap();
        assert_eq!(object["source"], "hot_image", "{object}");

        // Requests that resolve to the same packages share the layer.
        let same = ["user_of_tiny==0.3", "tiny==1.5"];
        let (_, stderr) = environment.prints("python", &same, USES_TINY);
        assert_eq!(builders(&stderr), 1, "{stderr}");
        assert!(!stderr.contains("packing a layer"), "{stderr}");
        assert_eq!(environment.layers(), layers);

        // All are compiled and belong to the user; the directories above belong to root, as in the image.
        let looks = "import tiny, os; print(os.path.exists(tiny.__cached__), \
            [os.stat(at).st_uid for at in ('/', '/home', os.path.expanduser('~'), tiny.__file__)])";
        let (printed, _) = environment.prints("python", &packages, looks);
        assert_eq!(printed, "True [0, 0, 1000, 1000]\n");

        let pruned = environment.run(&["layer", "prune", "--all"]);
        let removed = String::from_utf8(pruned.stdout).unwrap();
        assert!(removed.starts_with("removed 1 layers"), "{removed}");
        assert_eq!(environment.layers(), [""; 0]);

        // Installed again, the same packages make the same layer.
        let (printed, stderr) = environment.prints("python", &packages, USES_TINY);
        assert_eq!((printed.as_str(), builders(&stderr)), ("15\n", 1));
        let digest = |layers: &[String]| layers[0][..12].to_owned();
        assert_eq!(digest(&environment.layers()), digest(&layers));
    });
}

/// What fumehood writes for QEMU, which runs as another user, does not depend on the umask.
#[test]
fn packages_a_network_and_files_are_combined_whatever_the_umask() {
    in_private_netns(
        "packages_a_network_and_files_are_combined_whatever_the_umask",
        || async {
            let mut environment = Environment::new();
            environment.umask = "027";
            let _server = environment.serve_python();
            let (local, copy) = ["in", "out"]
                .map(|name| environment.directory.path().join(name))
                .into();
            std::fs::write(&local, "text").unwrap();
            let (upload, download) = (
                format!("{}:in", local.display()),
                format!("in:{}", copy.display()),
            );

            let code = "import tiny, urllib.request\n\
                print(tiny.VALUE, urllib.request.urlopen('http://10.66.0.1:8000/tiny/').status)";
            let mut args = vec!["run", "-l", "python", "-c", code];
            args.extend(["-p", "tiny==1.0", "--allow", PYTHON]);
            args.extend(["--upload", &upload, "--download", &download]);

            for builds in [1, 0] {
                let ended = environment.run(&args);
                let printed = String::from_utf8_lossy(&ended.stdout);
                assert_eq!(printed, "1 200\n", "{}", stderr_text(&ended));
                assert_eq!(builders(&stderr_text(&ended)), builds);
                assert_eq!(std::fs::read_to_string(&copy).unwrap(), "text");
                std::fs::remove_file(&copy).unwrap();
            }
        },
    );
}

#[test]
fn javascript_packages_are_installed_once_and_reused() {
    in_private_netns(
        "javascript_packages_are_installed_once_and_reused",
        || async {
            let environment = Environment::new();
            let registry = environment.index(
                &JAVASCRIPT_INDEX.replace("127.0.0.1:8001", JAVASCRIPT),
                "registry",
            );

            let _server = FileServer::new(&registry, None).listen(JAVASCRIPT);
            let code = "import tiny from 'tiny'; console.log(tiny)";
            for builds in [1, 0] {
                let (printed, stderr) = environment.prints("javascript", &["tiny@^1"], code);
                assert_eq!((printed.as_str(), builders(&stderr)), ("1.2.0\n", builds));
            }

            assert!(environment.layers()[0].ends_with("tiny 1.2.0"));
        },
    );
}

#[test]
fn failed_installations_are_explained() {
    in_private_netns("failed_installations_are_explained", || async {
        let mut environment = Environment::new();
        let index = environment.index(PYTHON_INDEX, "index");
        let _server = FileServer::new(&index, None).listen(PYTHON);
        let silent = FileServer::new(&index, None).listen(SILENT);
        silent.hold(true);

        // At one of these addresses nothing listens, and at the other one nothing is answered. The installer tries for a
        // while, in which the others fail.
        let mut start_at = |address: &str, packages: &[&str], options: &[&str]| {
            let index = ("UV_DEFAULT_INDEX".into(), format!("http://{address}/"));
            environment.variables.push(index);
            let run = environment.start_failing(packages, options);
            environment.variables.pop();
            run
        };
        let unreachable = start_at(CLOSED, &["tiny==1.0"], &[]);
        let unanswered = start_at(SILENT, &["tiny==1.5"], &["--package-timeout=20"]);

        let (kind, retry, message) = environment.fails(&["user_of_tiny==0.3", "tiny==2.0"], &[]);
        assert_eq!((kind.as_str(), retry.as_str()), ("invalid", "never"));
        assert!(message.contains("tiny<2"), "{message}");

        let (kind, _, message) = environment.fails(&["absent==1"], &[]);
        assert!(kind == "invalid" && message.contains("absent"), "{message}");

        let (kind, _, message) = environment.fails(&["tiny=1"], &[]);
        assert!(
            kind == "invalid" && message.contains("specifier"),
            "{message}"
        );

        let (kind, retry, message) = failure(unreachable);
        assert_eq!(
            (kind.as_str(), retry.as_str()),
            ("unreachable", "safe"),
            "{message}"
        );

        let (kind, retry, message) = failure(unanswered);
        assert_eq!((kind.as_str(), retry.as_str()), ("unreachable", "safe"));
        assert!(message.contains("20 s"), "{message}");
        assert_eq!(environment.layers().len(), 0);

        // The same packages can be installed now.
        let (printed, _) = environment.prints("python", &["tiny==1.5"], "import tiny");
        assert_eq!(printed, "");
    });
}

#[test]
fn concurrent_installs_run_once_and_a_killed_one_leaves_nothing() {
    in_private_netns(
        "concurrent_installs_run_once_and_a_killed_one_leaves_nothing",
        || async {
            let environment = Environment::new();
            let server = environment.serve_python();
            let args = [
                "run",
                "-l",
                "python",
                "-p",
                "tiny==1.0",
                "-c",
                "import tiny; print(tiny.VALUE)",
            ];
            server.hold(true);
            let mut killed = environment.start(&args);
            let is_asked = || {
                server
                    .requests()
                    .iter()
                    .any(|request| request.contains(".whl"))
            };
            wait_until("a request for a wheel", is_asked);
            send(killed.id(), Signal::KILL);
            killed.wait().unwrap();
            let both = [environment.start(&args), environment.start(&args)];
            server.hold(false);
            let ended = both.map(finish_child);
            let mut started = 0;

            for one in &ended {
                assert_eq!(
                    String::from_utf8_lossy(&one.stdout),
                    "1\n",
                    "{}",
                    stderr_text(one)
                );
                started += builders(&stderr_text(one));
            }

            assert_eq!(started, 1);
            let layers =
                std::fs::read_dir(environment.directory.path().join("store/layers")).unwrap();
            let names = layers.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let unfinished: Vec<_> = names.filter(|name| name.contains('.')).collect();
            assert_eq!(unfinished, [""; 0]);
        },
    );
}

#[test]
fn index_credentials_stay_on_the_host() {
    in_private_netns("index_credentials_stay_on_the_host", || async {
        let mut environment = Environment::new();
        let index = environment.index(PYTHON_INDEX, "index");

        // me:open-sesame-1234
        let shown = "Basic bWU6b3Blbi1zZXNhbWUtMTIzNA==";
        let authority = CertificateAuthority::trusted();
        let tls = authority.acceptor(&[NAME]);
        let server = FileServer::new(&index, Some(shown)).listen_tls(SEALED, &tls);
        let url = format!("https://me:open-sesame-1234@{NAME}:8443/");
        environment.variables.push(("UV_DEFAULT_INDEX".into(), url));
        let looks = "import tiny, os, subprocess\n\
            print(tiny.VALUE, sum('sesame' in value for value in os.environ.values()))\n\
            print(subprocess.run(['grep', '-rlE', '--exclude=main.py', 'sesame|fumehood-secret', os.path.expanduser('~')], capture_output=True, text=True).stdout)";

        let (printed, stderr) = environment.prints("python", &["tiny==1.0"], looks);
        assert_eq!(printed, "1 0\n\n", "{stderr}");
        assert!(!stderr.contains("sesame"), "{stderr}");
        let requests = server.requests();
        assert!(
            requests.iter().any(|request| request.ends_with(shown)),
            "{requests:?}"
        );
        assert!(
            !requests
                .iter()
                .any(|request| request.contains("fumehood-secret"))
        );

        let layers = environment.layers();
        assert!(!layers[0].contains("sesame"), "{layers:?}");
    });
}

#[test]
fn packages_without_a_version_are_the_newest() {
    in_private_netns("packages_without_a_version_are_the_newest", || async {
        let environment = Environment::new();
        let server = environment.serve_python();
        let code = "import tiny; print(tiny.VALUE)";
        let (printed, stderr) = environment.prints("python", &["tiny"], code);
        assert_eq!(printed, "2\n");
        assert!(stderr.contains("packages: tiny 2.0"), "{stderr}");

        // The result is kept: the next run needs no index, and says what it uses.
        let requests_before = server.requests().len();
        let (printed, stderr) = environment.prints("python", &["Tiny"], code);
        assert_eq!(printed, "2\n");
        assert_eq!(stderr, "fumehood: packages: tiny 2.0\n");
        assert_eq!(server.requests().len(), requests_before);
        let args = ["run", "--json", "-l", "python", "-p", "tiny", "-c", code];
        let object: Value = serde_json::from_slice(&environment.run(&args).stdout).unwrap();
        let expected = serde_json::json!([{ "name": "tiny", "version": "2.0" }]);
        assert_eq!(object["packages"], expected);

        // After a day it is resolved again.
        let requests = environment.directory.path().join("store/layers/requests");
        let age = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 60 * 60);
        for entry in std::fs::read_dir(&requests).unwrap().flatten() {
            let record = std::fs::File::options().write(true).open(entry.path());
            record.unwrap().set_modified(age).unwrap();
        }
        let (_, stderr) = environment.prints("python", &["tiny"], code);
        assert_eq!(builders(&stderr), 1, "{stderr}");
        assert!(server.requests().len() > requests_before);
        assert_eq!(environment.layers().len(), 1);
    });
}

#[test]
fn programs_of_packages_are_in_the_path() {
    in_private_netns("programs_of_packages_are_in_the_path", || async {
        let environment = Environment::new();
        let _server = environment.serve_python();
        let expected = "a program of tiny\n".repeat(3);
        let (printed, _) = environment.prints("python", &["tiny==2.0"], RUNS_PROGRAM);
        assert_eq!(printed, expected);

        let script = environment.index(
            &JAVASCRIPT_INDEX.replace("127.0.0.1:8001", JAVASCRIPT),
            "registry",
        );
        let _registry = FileServer::new(&script, None).listen(JAVASCRIPT);
        let code = "const run = (...argv) => process.stdout.write(Bun.spawnSync(argv).stdout);
            run('tiny-program'); run('bash', '-c', 'tiny-program'); run('npx', 'tiny-program');";
        let (printed, _) = environment.prints("javascript", &["tiny@2.0.0"], code);
        assert_eq!(printed, expected);
    });
}

#[test]
fn programs_name_their_packages() {
    in_private_netns("programs_name_their_packages", || async {
        let environment = Environment::new();
        let _server = environment.serve_python();
        let file = |name: &str, text: &str| {
            let path = environment.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };

        let code = "import tiny\nprint(tiny.VALUE)\n";
        let metadata = "# /// script\n# dependencies = [\"tiny<2\"]\n# ///\n";
        let script = file("prog.py", &format!("{metadata}{code}"));
        let ended = environment.run(&["run", &script]);
        let stderr = stderr_text(&ended);
        assert_eq!(ended.stdout, b"15\n", "{stderr}");
        assert!(
            stderr.contains("packages of the script metadata: tiny<2"),
            "{stderr}"
        );
        let ended = environment.run(&["run", "--no-script-packages", &script]);
        assert_eq!(ended.status.code(), Some(1));

        let requirements = file("requirements.txt", "tiny >= 1, < 1.5  # a comment\n");
        let plain = file("plain.py", code);
        let ended = environment.run(&["run", "-r", &requirements, &plain]);
        assert_eq!(ended.stdout, b"1\n", "{}", stderr_text(&ended));
    });
}
