use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Firmware that the machines here load, by the names that QEMU looks for.
const FIRMWARE: [&str; 6] = [
    "qboot.rom",
    "bios-microvm.bin",
    "pvh.bin",
    "linuxboot_dma.bin",
    "linuxboot.bin",
    "kvmvapic.bin",
];

/// Where it lies, below the prefix that QEMU's program lies in.
const FIRMWARE_DIRECTORIES: [&str; 3] = ["share/qemu", "share/seabios", "share/qboot"];

/// Parts of QEMU that distributions make loadable and the machines here need.
const MODULES: [&str; 1] = ["accel-tcg-x86_64.so"];

/// Where they lie, as the firmware.
const MODULE_DIRECTORIES: [&str; 3] = ["lib/x86_64-linux-gnu/qemu", "lib64/qemu", "lib/qemu"];

/// What any program may read.
const ALWAYS: [&str; 1] = ["/etc/ld.so.cache"];

/// The files that a QEMU reads to run: itself, its libraries, its loadable parts, its firmware. The
/// dynamic loader itself tells which libraries it takes.
///
/// # Errors
/// The operating system's: the program cannot be executed.
pub(crate) fn files_of(program: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = program.parent().and_then(Path::parent);
    let prefix = prefix.unwrap_or(Path::new("/usr"));
    let modules = below(prefix, &MODULE_DIRECTORIES, &MODULES);
    let mut files = vec![program.to_path_buf()];
    files.extend(libraries(program, &modules)?);
    files.extend(modules);
    files.extend(below(prefix, &FIRMWARE_DIRECTORIES, &FIRMWARE));
    files.extend(
        ALWAYS
            .iter()
            .map(PathBuf::from)
            .filter(|path| path.exists()),
    );
    files.sort();
    files.dedup();
    Ok(files)
}

fn below(prefix: &Path, directories: &[&str], names: &[&str]) -> Vec<PathBuf> {
    let directories = directories.iter().map(|directory| prefix.join(directory));
    let files =
        directories.flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    files.filter(|path| path.is_file()).collect()
}

/// Has the dynamic loader list what it would load, and start nothing.
fn libraries(program: &Path, modules: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut command = Command::new(program);
    // A program that is linked statically is started: with this it does nothing.
    command.arg("--version").env_clear().current_dir("/");
    command.env("LD_TRACE_LOADED_OBJECTS", "1");
    if !modules.is_empty() {
        let paths: Vec<_> = modules.iter().map(|path| path.to_string_lossy()).collect();
        command.env("LD_PRELOAD", paths.join(":"));
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let listed = command.output()?;
    Ok(String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(library)
        .collect())
}

/// The path in a line like `libz.so.1 => /lib/libz.so.1 (0x0000)` or `/lib64/ld.so (0x0000)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.rsplit_once("=>").map_or(line, |(_, path)| path);
    let (path, _) = path.rsplit_once(" (0x")?;
    let path = path.trim();
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_the_loader_lists() {
        let path = |line| library(line).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(
            path("\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f94)").as_deref(),
            Some("/lib/x/libz.so.1")
        );
        assert_eq!(
            path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f94)").as_deref(),
            Some("/lib64/ld-linux-x86-64.so.2")
        );
        for other in [
            "\tlinux-vdso.so.1 (0x00007ffc)",
            "\tlibx.so => not found",
            "hello",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }

    #[test]
    fn a_shell_needs_itself_and_libraries_that_are_there() {
        let files = files_of(Path::new("/bin/sh")).unwrap();
        assert!(
            files.contains(&"/bin/sh".into()) && files.len() > 2,
            "{files:?}"
        );
        assert!(files.iter().all(|path| path.is_absolute() && path.exists()));
    }
}
