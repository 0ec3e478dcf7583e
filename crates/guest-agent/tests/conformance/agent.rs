//! The agent on this machine.

use std::path::Path;
use std::process::{Child, Command};

use fumehood_conformance::Address;

use crate::listening::start_listening;

/// An agent process that is killed at the end of the test.
pub(crate) struct Agent {
    child: Child,
    pub(crate) address: Address,
    directory: tempfile::TempDir,
}

impl Agent {
    /// Starts an agent with these options, and a stand-in for `uv` in its `PATH`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        install_script(
            &directory.path().join("bin"),
            "uv",
            "echo \"$0: no index\" >&2; exit 7",
        );
        // Programs of the user write their files there.
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();

        let path = format!(
            "{}/bin:{}",
            directory.path().display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_fumehood-agent"));
        command.current_dir(&home).env("PATH", path);
        let (child, address) = start_listening(&mut command, arguments);

        Self {
            child,
            address: format!("tcp://{address}").parse().unwrap(),
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn install_script(folder: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;

    std::fs::create_dir_all(folder).unwrap();
    let file = folder.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}
