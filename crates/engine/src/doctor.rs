//! Looks at this host and says what is, what it means, and how to mend it.

use std::process::Command;

use fumehood_qemu::Launcher;
use rustix::fs::Access;

use crate::config::{Config, Qemu, image_error, open_store};
use crate::error::Error;
use crate::host::{
    Accelerator, Isolation, IsolationLayer, RequiredIsolation, SelectedAccelerator,
    select_accelerator,
};
use crate::provision::available_mib;
use crate::vm::launch_config;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// As it should be.
    Good,
    /// It works, with less.
    Reduced,
    /// Nothing runs until it is mended.
    Bad,
}

/// What was found about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How well it is.
    pub health: Health,
    /// What is, and what it means.
    pub what: String,
    /// How to mend or better it; empty where there is nothing to do.
    pub fix: String,
}

impl Finding {
    fn new(
        subject: &'static str,
        health: Health,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            subject,
            health,
            what: what.into(),
            fix: fix.into(),
        }
    }
}

/// Memory below which ten default VMs at once would not fit, in MiB.
const COMFORTABLE_MIB: u64 = 2048;

/// Disk that a first build needs beside what is cached, in MiB: kernel sources and objects are most of it.
const BUILD_MIB: u64 = 4096;

/// All findings, in the order in which a first run would meet them. Takes well under a second.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    let chosen = select_accelerator(config.accelerator);
    vec![
        qemu(config),
        accelerator(&chosen),
        image(config),
        permissions(config),
        walls(config, &chosen),
        memory(),
        disk(config),
    ]
}

fn qemu(config: &Config) -> Finding {
    const SUBJECT: &str = "QEMU";
    let qemu = match Qemu::find(config) {
        Ok(qemu) => qemu,
        Err(error) => {
            return Finding::new(
                SUBJECT,
                Health::Bad,
                error.to_string(),
                "apt-get install qemu-system-x86",
            );
        }
    };
    let output = Command::new(&qemu.program).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    match text.lines().next() {
        Some(version) => Finding::new(
            SUBJECT,
            Health::Good,
            format!("{} ({version})", qemu.program.display()),
            "",
        ),
        None => Finding::new(
            SUBJECT,
            Health::Bad,
            format!(
                "{} does not tell its version: it cannot be run",
                qemu.program.display()
            ),
            "apt-get install --reinstall qemu-system-x86",
        ),
    }
}

fn accelerator(chosen: &Result<SelectedAccelerator, Error>) -> Finding {
    const SUBJECT: &str = "accelerator";
    match chosen {
        Ok(chosen) if chosen.accelerator == Accelerator::Kvm => {
            Finding::new(SUBJECT, Health::Good, format!("kvm: {}", chosen.reason), "")
        }
        Ok(chosen) => Finding::new(
            SUBJECT,
            Health::Reduced,
            format!(
                "tcg: {}; everything works, CPU-bound code runs about 13 times slower than here",
                chosen.reason
            ),
            "on a machine whose CPU offers vmx or svm, with the right to open /dev/kvm, KVM is taken by itself",
        ),
        Err(error) => Finding::new(
            SUBJECT,
            Health::Bad,
            error.to_string(),
            "use --accelerator auto",
        ),
    }
}

fn image(config: &Config) -> Finding {
    const SUBJECT: &str = "image";
    match open_store(config).and_then(|store| store.image(&config.image).map_err(image_error)) {
        Ok(image) => {
            let what = format!(
                "`{}` {} in {}",
                image.name(),
                short(image.id()),
                image.directory().display()
            );
            Finding::new(SUBJECT, Health::Good, what, "")
        }
        Err(error) => Finding::new(
            SUBJECT,
            Health::Bad,
            error.to_string(),
            "fumehood image build",
        ),
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Puts the walls up around a QEMU that does nothing, as they would be around a VM's.
fn walls(config: &Config, chosen: &Result<SelectedAccelerator, Error>) -> Finding {
    const SUBJECT: &str = "walls around QEMU";
    const ALWAYS: &str = "no capabilities, no new privileges, filtered system calls, limits";
    let accelerator = chosen.as_ref();
    let accelerator = accelerator.map_or(Accelerator::Tcg, |chosen| chosen.accelerator);
    let any = Config {
        require_isolation: RequiredIsolation::Any,
        ..config.clone()
    };
    let launch_config = Qemu::find(config)
        .and_then(|qemu| launch_config(&any, &qemu, accelerator, open_store(config)?.root()));
    let tried = launch_config.map_err(|e| e.to_string());
    let tried = tried
        .and_then(|launch_config| Launcher::try_walls(launch_config).map_err(|e| e.to_string()));
    let missing = match tried {
        Ok(missing) => missing,
        Err(why) => return Finding::new(SUBJECT, Health::Bad, why, "fumehood image build"),
    };
    if missing.is_empty() {
        let what =
            format!("isolation full: own user, namespaces, root, cgroup, Landlock; {ALWAYS}");
        return Finding::new(SUBJECT, Health::Good, what, "");
    }
    let walls: Vec<_> = missing
        .iter()
        .map(|(wall, _)| IsolationLayer::from(*wall))
        .collect();
    let whys: Vec<_> = missing.iter().map(|(_, why)| why.as_str()).collect();
    let isolation = Isolation::Reduced(walls.clone());
    let what = format!("isolation {isolation} ({}); {ALWAYS}", whys.join("; "));
    let fixes: Vec<_> = walls
        .iter()
        .map(|wall| format!("{wall}: {}", wall.fix()))
        .collect();
    Finding::new(SUBJECT, Health::Reduced, what, fixes.join("; "))
}

/// What this user may do with what a run needs.
fn permissions(config: &Config) -> Finding {
    const SUBJECT: &str = "permissions";
    let Ok(store) = open_store(config) else {
        return Finding::new(SUBJECT, Health::Bad, "no store", "set FUMEHOOD_HOME");
    };
    let root = store.root();
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let may = |access| rustix::fs::access(existing, access).is_ok();
    if !may(Access::READ_OK | Access::EXEC_OK) {
        let what = format!("{} may not be read by this user", existing.display());
        return Finding::new(
            SUBJECT,
            Health::Bad,
            what,
            "let this user read it, or set FUMEHOOD_HOME",
        );
    }
    if !may(Access::WRITE_OK) {
        let what = format!(
            "images can be run and not built: {} is another user's",
            existing.display()
        );
        return Finding::new(
            SUBJECT,
            Health::Reduced,
            what,
            "set FUMEHOOD_HOME to build images of your own",
        );
    }
    let who = if rustix::process::geteuid().is_root() {
        "root"
    } else {
        "an ordinary user"
    };
    Finding::new(
        SUBJECT,
        Health::Good,
        format!("{who}, who may build and run images"),
        "",
    )
}

fn memory() -> Finding {
    const SUBJECT: &str = "memory";
    match available_mib() {
        Some(mib) if mib >= COMFORTABLE_MIB => {
            Finding::new(SUBJECT, Health::Good, format!("{mib} MiB available"), "")
        }
        Some(mib) => Finding::new(
            SUBJECT,
            Health::Reduced,
            format!("{mib} MiB available: few VMs fit at once, further ones wait"),
            "end other programs, or give VMs less with -m",
        ),
        None => Finding::new(SUBJECT, Health::Reduced, "/proc/meminfo cannot be read", ""),
    }
}

fn disk(config: &Config) -> Finding {
    const SUBJECT: &str = "disk";
    let root = match open_store(config) {
        Ok(store) => store.root().to_path_buf(),
        Err(error) => {
            return Finding::new(SUBJECT, Health::Bad, error.to_string(), "set FUMEHOOD_HOME");
        }
    };
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(&root);
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let mib = stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024);
            let what = format!("{mib} MiB free for {}", root.display());
            if mib >= BUILD_MIB {
                Finding::new(SUBJECT, Health::Good, what, "")
            } else {
                let what = format!("{what}: a first image build needs {BUILD_MIB}");
                Finding::new(
                    SUBJECT,
                    Health::Reduced,
                    what,
                    "free some, or set FUMEHOOD_HOME to a larger disk",
                )
            }
        }
        Err(error) => Finding::new(
            SUBJECT,
            Health::Bad,
            format!("{} : {error}", root.display()),
            "set FUMEHOOD_HOME",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_mend() {
        let empty = std::env::temp_dir().join("fumehood-no-such-store");
        let config = Config {
            qemu: Some("/nonexistent/qemu".into()),
            store: Some(empty),
            ..Config::default()
        };
        let findings = examine(&config);
        for subject in ["QEMU", "image"] {
            let finding = findings.iter().find(|f| f.subject == subject).unwrap();
            assert_eq!(finding.health, Health::Bad);
            assert!(!finding.fix.is_empty());
        }
        assert!(findings.iter().all(|f| !f.what.is_empty()));
    }
}
