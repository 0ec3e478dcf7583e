use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
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

/// Has the dynamic loader list what it would load. Only the loader is run: the program comes later, within
/// its walls.
fn libraries(program: &Path, modules: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    // One that is linked statically has none.
    let Some(loader) = loader_of(program)? else {
        return Ok(Vec::new());
    };
    let mut command = Command::new(loader);
    command.arg("--list").arg(program);
    command.env_clear().current_dir("/");
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

/// The dynamic loader that a program names in its header (ELF of 64 bits); none: it has none, or is no such
/// program, which its start will tell.
fn loader_of(program: &Path) -> io::Result<Option<PathBuf>> {
    const INTERPRETER: usize = 3;
    /// More than any header that a linker makes, in bytes.
    const HEADERS: u64 = 64 * 1024;
    let mut start = Vec::new();
    File::open(program)?.take(HEADERS).read_to_end(&mut start)?;
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = start.get(at..at.checked_add(bytes)?)?;
        let whole = field.iter().rev();
        whole.copied().try_fold(0_usize, |sum, byte| {
            Some(sum.checked_mul(256)? + usize::from(byte))
        })
    };
    let find = || -> Option<PathBuf> {
        if !start.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let headers = (0..count).map(|index| table.saturating_add(index * size));
        let mut named = headers.filter(|at| number(*at, 4) == Some(INTERPRETER));
        let header = named.next()?;
        let (offset, bytes) = (number(header + 8, 8)?, number(header + 32, 8)?);
        let name = start.get(offset..offset.checked_add(bytes)?)?;
        let name = CStr::from_bytes_with_nul(name).ok()?;
        Some(OsStr::from_bytes(name.to_bytes()).into())
    };
    Ok(find())
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
    fn what_names_no_loader_needs_no_libraries() {
        for path in ["/etc/passwd", "/dev/null"] {
            assert_eq!(loader_of(Path::new(path)).unwrap(), None);
        }
        let shell = loader_of(Path::new("/bin/sh")).unwrap();
        assert!(shell.is_some_and(|path| path.exists()));
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
