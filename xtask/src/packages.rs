//! Debian packages that the host must have.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::shell::run;

/// Something that the host needs: the Debian package that provides it, and a check whether it is there.
struct Need {
    package: &'static str,
    is_there: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        package: "qemu-system-x86",
        is_there: || program("qemu-system-x86_64"),
    },
    Need {
        package: "mmdebstrap",
        is_there: || program("mmdebstrap"),
    },
    Need {
        package: "debian-archive-keyring",
        is_there: || Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").exists(),
    },
    Need {
        package: "erofs-utils",
        is_there: || program("mkfs.erofs"),
    },
    Need {
        package: "gcc",
        is_there: || program("gcc"),
    },
    Need {
        package: "libc6-dev",
        is_there: || Path::new("/usr/include/stdlib.h").exists(),
    },
    Need {
        package: "make",
        is_there: || program("make"),
    },
    Need {
        package: "flex",
        is_there: || program("flex"),
    },
    Need {
        package: "bison",
        is_there: || program("bison"),
    },
    Need {
        package: "bc",
        is_there: || program("bc"),
    },
    Need {
        package: "libelf-dev",
        is_there: || Path::new("/usr/include/libelf.h").exists(),
    },
    Need {
        package: "binutils",
        is_there: || program("ld"),
    },
    Need {
        package: "perl",
        is_there: || program("perl"),
    },
    Need {
        package: "patch",
        is_there: || program("patch"),
    },
    Need {
        package: "tar",
        is_there: || program("tar"),
    },
    Need {
        package: "util-linux",
        is_there: || program("setpriv") && program("unshare"),
    },
    Need {
        package: "curl",
        is_there: || program("curl"),
    },
    Need {
        package: "iproute2",
        is_there: || program("ip"),
    },
    Need {
        package: "python3",
        is_there: || program("python3"),
    },
    Need {
        package: "xz-utils",
        is_there: || program("xz"),
    },
    Need {
        package: "python3-pip",
        is_there: || succeeds("python3", &["-m", "pip", "--version"]),
    },
    Need {
        package: "python3-venv",
        is_there: || succeeds("python3", &["-c", "import ensurepip, venv"]),
    },
    Need {
        package: "npm",
        is_there: || program("npm"),
    },
    Need {
        package: "uidmap",
        is_there: || is_root() || program("newuidmap"),
    },
];

/// Installs the packages that are missing.
///
/// # Errors
/// Fails with the list of packages if this user or system cannot install them.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| !(need.is_there)())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }

    let list = missing.join(" ");
    if !program("apt-get") {
        bail!(
            "programs are missing that Debian has in these packages: {list}; install them with this system's package manager"
        );
    }
    if !is_root() {
        bail!(
            "some packages are missing; run\n    sudo apt-get install --no-install-recommends {list}\nand then this again"
        );
    }

    eprintln!("installing missing packages: {list}");
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args(["install", "-qy", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program with this name is in a directory of `PATH`.
pub(crate) fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();

    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Whether a program can be started and exits with success.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();

    status.is_ok_and(|status| status.success())
}
