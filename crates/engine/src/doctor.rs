//! Checks this host: status, impact and how to fix problems.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use fumehood_image::{BuildOptions, Error as ImageError, HOT_IMAGE_AGE, missing_prerequisites};
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

/// The status of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Fully functional.
    Good,
    /// Functional, with restrictions.
    Reduced,
    /// Nothing runs until it is fixed.
    Bad,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The subject of the check.
    pub subject: &'static str,
    /// Its status.
    pub health: Health,
    /// What was found, and its impact.
    pub what: String,
    /// How to fix or improve it; empty if there is nothing to do.
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

/// Available memory below which ten default VMs do not fit at the same time, in MiB.
const COMFORTABLE_MIB: u64 = 2048;

/// Disk space that a first build needs besides its result, in MiB: mostly kernel sources and objects.
const BUILD_MIB: u64 = 4096;

/// Runs all checks, in the order in which a first run needs their subjects. This takes well under a second.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    let selected = select(config);
    vec![
        check_qemu(config),
        check_accelerator(&selected),
        check_image(config),
        check_hot_images(config, &selected),
        check_permissions(config),
        check_isolation(config, &selected),
        check_memory(),
        check_disk(config),
    ]
}

/// Selects the accelerator as an engine does.
fn select(config: &Config) -> Result<SelectedAccelerator, Error> {
    let qemu = Qemu::find(config).map(|qemu| qemu.program).ok();
    let store = open_store(config).map(|store| store.root().to_path_buf());

    select_accelerator(config.accelerator, qemu.as_deref(), store.ok().as_deref())
}

fn check_qemu(config: &Config) -> Finding {
    const SUBJECT: &str = "QEMU";
    let qemu = match Qemu::find(config) {
        Ok(qemu) => qemu,
        Err(error) => {
            let fix = "apt-get install qemu-system-x86";
            return Finding::new(SUBJECT, Health::Bad, error.to_string(), fix);
        }
    };

    let program = qemu.program.display();
    let output = Command::new(&qemu.program).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();

    match text.lines().next() {
        Some(version) => Finding::new(SUBJECT, Health::Good, format!("{program} ({version})"), ""),
        None => {
            let what = format!("`{program} --version` failed; the binary cannot be executed");
            let fix = "apt-get install --reinstall qemu-system-x86";
            Finding::new(SUBJECT, Health::Bad, what, fix)
        }
    }
}

fn check_accelerator(selected: &Result<SelectedAccelerator, Error>) -> Finding {
    const SUBJECT: &str = "accelerator";
    match selected {
        Ok(selected) if selected.accelerator == Accelerator::Kvm => Finding::new(
            SUBJECT,
            Health::Good,
            format!("kvm: {}", selected.reason),
            "",
        ),
        Ok(selected) => {
            let what = format!(
                "tcg: {}; everything works, CPU-bound code runs about 13 times slower than on the host",
                selected.reason
            );
            let fix = "on a machine whose CPU has vmx or svm, and with access to /dev/kvm, KVM is used automatically";
            Finding::new(SUBJECT, Health::Reduced, what, fix)
        }
        Err(error) => {
            let fix = "use --accelerator auto";
            Finding::new(SUBJECT, Health::Bad, error.to_string(), fix)
        }
    }
}

fn check_image(config: &Config) -> Finding {
    const SUBJECT: &str = "image";
    let image =
        open_store(config).and_then(|store| store.image(&config.image).map_err(image_error));
    match image {
        Ok(image) => {
            let id = image.id();
            let short_id = id.get(..12).unwrap_or(id);
            let directory = image.directory().display();
            let what = format!("`{}` {short_id} in {directory}", image.name());
            Finding::new(SUBJECT, Health::Good, what, "")
        }
        Err(error) => {
            let fix = "fumehood image build";
            Finding::new(SUBJECT, Health::Bad, error.to_string(), fix)
        }
    }
}

/// Reports whether VMs continue from hot images, and the images of the store.
fn check_hot_images(config: &Config, selected: &Result<SelectedAccelerator, Error>) -> Finding {
    const SUBJECT: &str = "hot images";
    let selected = selected.as_ref().map(|selected| selected.accelerator);
    if selected.is_ok_and(|accelerator| accelerator == Accelerator::Kvm) {
        return Finding::new(SUBJECT, Health::Good, "not needed with KVM", "");
    }
    if !config.hot_images {
        let what = "switched off: VMs start from templates, about ten times slower";
        let fix = "unset FUMEHOOD_HOT_IMAGES";
        return Finding::new(SUBJECT, Health::Reduced, what, fix);
    }

    let fix = "fumehood template build";
    let listed = open_store(config).and_then(|store| {
        let images = store.hot_images();
        let listed = images.list().map_err(image_error)?;
        Ok((listed, images.last_failure()))
    });
    let (listed, failure) = match listed {
        Ok(found) => found,
        Err(error) => return Finding::new(SUBJECT, Health::Reduced, error.to_string(), fix),
    };
    if let Some(failure) = failure {
        let (minutes, reason) = (failure.age.as_secs() / 60, failure.reason);
        let what = format!(
            "creating one failed {minutes} min ago ({reason}): VMs start from templates, about ten times slower"
        );
        return Finding::new(SUBJECT, Health::Reduced, what, fix);
    }

    let usable: Vec<_> = listed.iter().filter(|image| image.is_usable).collect();
    let ages = usable.iter().map(|image| image.created.elapsed());
    let Some(oldest) = ages.map(Result::unwrap_or_default).max() else {
        let what = "none since this host was started; runs create them in the background";
        return Finding::new(SUBJECT, Health::Good, what, "");
    };
    let bytes: u64 = usable.iter().map(|image| image.bytes).sum();
    let what = format!(
        "{} of {} MiB, up to {} h old; replaced after {} h",
        usable.len(),
        bytes / (1024 * 1024),
        oldest.as_secs() / 3600,
        HOT_IMAGE_AGE.as_secs() / 3600,
    );
    Finding::new(SUBJECT, Health::Good, what, "")
}

/// Isolates a QEMU that does nothing, in the same way as that of a VM.
fn check_isolation(config: &Config, selected: &Result<SelectedAccelerator, Error>) -> Finding {
    const SUBJECT: &str = "isolation of QEMU";
    const ALWAYS: &str = "no capabilities, no new privileges, filtered system calls, limits";

    // Report missing layers even if the configuration requires all of them.
    let accelerator = selected.as_ref().map(|selected| selected.accelerator);
    let accelerator = accelerator.unwrap_or(Accelerator::Tcg);
    let config = Config {
        require_isolation: RequiredIsolation::Any,
        ..config.clone()
    };

    let launch_config = Qemu::find(&config).and_then(|qemu| {
        let store = open_store(&config)?;
        launch_config(&config, &qemu, accelerator, store.root())
    });

    let missing = launch_config
        .map_err(|e| e.to_string())
        .and_then(|config| Launcher::probe_isolation(config).map_err(|e| e.to_string()));

    let missing = match missing {
        Ok(missing) => missing,
        Err(why) => return Finding::new(SUBJECT, Health::Bad, why, "fumehood image build"),
    };

    if missing.is_empty() {
        let what =
            format!("isolation full: own user, namespaces, root, cgroup, Landlock; {ALWAYS}");
        return Finding::new(SUBJECT, Health::Good, what, "");
    }

    let layers: Vec<_> = missing
        .iter()
        .map(|(layer, _)| IsolationLayer::from(*layer))
        .collect();

    let reasons: Vec<_> = missing.iter().map(|(_, why)| why.as_str()).collect();
    let fixes: Vec<_> = layers
        .iter()
        .map(|layer| format!("{layer}: {}", layer.fix()))
        .collect();

    let isolation = Isolation::Reduced(layers);
    let what = format!("isolation {isolation} ({}); {ALWAYS}", reasons.join("; "));

    Finding::new(SUBJECT, Health::Reduced, what, fixes.join("; "))
}

/// Checks the permissions of this user for the store.
fn check_permissions(config: &Config) -> Finding {
    const SUBJECT: &str = "permissions";
    let Ok(store) = open_store(config) else {
        return Finding::new(SUBJECT, Health::Bad, "no store", "set FUMEHOOD_HOME");
    };

    // The store may not exist yet: check the directory that it will be created in.
    let existing = existing_ancestor(store.root());
    let shown = existing.display();
    let is_allowed = |access| rustix::fs::access(existing, access).is_ok();

    if !is_allowed(Access::READ_OK | Access::EXEC_OK) {
        let what = format!("this user cannot read {shown}");
        let fix = "allow this user to read it, or set FUMEHOOD_HOME";
        return Finding::new(SUBJECT, Health::Bad, what, fix);
    }

    if !is_allowed(Access::WRITE_OK) {
        let what = format!("this user can run images but not build them: {shown} is not writable");
        let fix = "set FUMEHOOD_HOME to build your own images";
        return Finding::new(SUBJECT, Health::Reduced, what, fix);
    }

    let user = if rustix::process::geteuid().is_root() {
        "root"
    } else {
        "an ordinary user"
    };

    // The same check as that of `image build`.
    let missing = missing_prerequisites(&store, &BuildOptions::new(""));
    if !missing.is_empty() {
        let (what, fix) = describe_missing(&missing);
        let what = format!("{user}, who can run images but not build them: {what}");
        return Finding::new(SUBJECT, Health::Reduced, what, fix);
    }

    let what = format!("{user}, with permission to build and run images");
    Finding::new(SUBJECT, Health::Good, what, "")
}

/// Returns the missing prerequisites of an image build, and one command that installs all missing programs.
fn describe_missing(missing: &[ImageError]) -> (String, String) {
    let (mut programs, mut packages) = (Vec::new(), BTreeSet::new());
    let (mut what, mut fixes) = (Vec::new(), Vec::new());
    for error in missing {
        if let ImageError::MissingProgram {
            program, package, ..
        } = error
        {
            programs.push(program.as_str());
            packages.insert(*package);
        } else {
            // The message says how to fix it.
            fixes.push(error.to_string());
        }
    }

    if !programs.is_empty() {
        what.push(format!("{} not installed", programs.join(", ")));
        let packages: Vec<_> = packages.into_iter().collect();
        fixes.insert(0, format!("apt-get install {}", packages.join(" ")));
    }
    if fixes.len() > what.len() {
        what.push("see the fixes".to_string());
    }
    (what.join("; "), fixes.join("; "))
}

fn check_memory() -> Finding {
    const SUBJECT: &str = "memory";
    match available_mib() {
        Some(mib) if mib >= COMFORTABLE_MIB => {
            Finding::new(SUBJECT, Health::Good, format!("{mib} MiB available"), "")
        }
        Some(mib) => {
            let what = format!("{mib} MiB available: few VMs fit at once, further ones wait");
            let fix = "end other programs, or give VMs less memory with -m";
            Finding::new(SUBJECT, Health::Reduced, what, fix)
        }
        None => Finding::new(SUBJECT, Health::Reduced, "cannot read /proc/meminfo", ""),
    }
}

fn check_disk(config: &Config) -> Finding {
    const SUBJECT: &str = "disk";
    let store = match open_store(config) {
        Ok(store) => store,
        Err(error) => {
            return Finding::new(SUBJECT, Health::Bad, error.to_string(), "set FUMEHOOD_HOME");
        }
    };

    let shown = store.root().display();
    let stat = match rustix::fs::statvfs(existing_ancestor(store.root())) {
        Ok(stat) => stat,
        Err(error) => {
            let what = format!("{shown}: {error}");
            return Finding::new(SUBJECT, Health::Bad, what, "set FUMEHOOD_HOME");
        }
    };

    let leftover_mib = store.leftover_bytes() / (1024 * 1024);
    if leftover_mib > 0 {
        let what = format!("{leftover_mib} MiB of {shown} are unfinished work of killed builds");
        let fix = "fumehood image prune; the next start of a VM removes them too";
        return Finding::new(SUBJECT, Health::Reduced, what, fix);
    }

    // Only the space for unprivileged users counts.
    let mib = stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024);
    if mib >= BUILD_MIB {
        let what = format!("{mib} MiB free for {shown}");
        return Finding::new(SUBJECT, Health::Good, what, "");
    }

    let what = format!("{mib} MiB free for {shown}; a first image build needs {BUILD_MIB} MiB");
    let fix = "free disk space, or set FUMEHOOD_HOME to a larger disk";

    Finding::new(SUBJECT, Health::Reduced, what, fix)
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_reported_with_their_fix() {
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
