//! What the host must have.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::shell::run;

/// Something the host needs: how to see that it is there, and the Debian package that brings it.
struct Need {
    package: &'static str,
    there: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        package: "qemu-system-x86",
        there: || program("qemu-system-x86_64"),
    },
    Need {
        package: "mmdebstrap",
        there: || program("mmdebstrap"),
    },
    Need {
        package: "debian-archive-keyring",
        there: || Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists(),
    },
    Need {
        package: "erofs-utils",
        there: || program("mkfs.erofs"),
    },
    Need {
        package: "gcc",
        there: || program("gcc"),
    },
    Need {
        package: "libc6-dev",
        there: || Path::new("/usr/include/stdlib.h").exists(),
    },
    Need {
        package: "make",
        there: || program("make"),
    },
    Need {
        package: "flex",
        there: || program("flex"),
    },
    Need {
        package: "bison",
        there: || program("bison"),
    },
    Need {
        package: "bc",
        there: || program("bc"),
    },
    Need {
        package: "libelf-dev",
        there: || Path::new("/usr/include/libelf.h").exists(),
    },
    Need {
        package: "binutils",
        there: || program("ld"),
    },
    Need {
        package: "perl",
        there: || program("perl"),
    },
    Need {
        package: "patch",
        there: || program("patch"),
    },
    Need {
        package: "tar",
        there: || program("tar"),
    },
    Need {
        package: "util-linux",
        there: || program("setpriv") && program("unshare"),
    },
    Need {
        package: "iproute2",
        there: || program("ip"),
    },
    Need {
        package: "python3",
        there: || program("python3"),
    },
    Need {
        package: "xz-utils",
        there: || program("xz"),
    },
    Need {
        package: "python3-pip",
        there: || succeeds("python3", &["-m", "pip", "--version"]),
    },
    Need {
        package: "python3-venv",
        there: || succeeds("python3", &["-c", "import ensurepip, venv"]),
    },
    Need {
        package: "npm",
        there: || program("npm"),
    },
    Need {
        package: "uidmap",
        there: || is_root() || program("newuidmap"),
    },
];

/// Installs what is missing, or says exactly what is.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| !(need.there)())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !program("apt-get") {
        bail!(
            "this host lacks what Debian calls: {list}; install it with this system's own packages"
        );
    }
    if !is_root() {
        bail!(
            "some packages are missing; run\n    sudo apt-get install --no-install-recommends {list}\nand then this again"
        );
    }
    eprintln!("packages are missing and will be installed: {list}");
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args(["install", "-qy", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
