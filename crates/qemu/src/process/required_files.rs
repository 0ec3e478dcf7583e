use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The firmware that our machines load, by the names that QEMU searches.
const FIRMWARE: [&str; 6] = [
    "qboot.rom",
    "bios-microvm.bin",
    "pvh.bin",
    "linuxboot_dma.bin",
    "linuxboot.bin",
    "kvmvapic.bin",
];

/// The directories of the firmware, relative to the installation prefix of QEMU.
const FIRMWARE_DIRECTORIES: [&str; 3] = ["share/qemu", "share/seabios", "share/qboot"];

/// The modules of QEMU that our machines need. Distributions build them as loadable files.
const MODULES: [&str; 1] = ["accel-tcg-x86_64.so"];

/// The directories of the modules, relative to the installation prefix of QEMU.
const MODULE_DIRECTORIES: [&str; 3] = ["lib/x86_64-linux-gnu/qemu", "lib64/qemu", "lib/qemu"];

/// The files that any program may read.
const COMMON_FILES: [&str; 1] = ["/etc/ld.so.cache"];

/// Returns the files that QEMU needs to run: itself, its libraries, its modules, its firmware. The dynamic
/// loader itself lists the libraries.
///
/// # Errors
/// The error of the operating system: the program cannot be executed.
pub(super) fn required_files(program: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = program.parent().and_then(Path::parent);
    let prefix = prefix.unwrap_or(Path::new("/usr"));

    // QEMU itself, its modules, and the libraries of both.
    let modules = existing_files(prefix, &MODULE_DIRECTORIES, &MODULES);
    let mut files = vec![program.to_path_buf()];
    files.extend(list_libraries(program, &modules)?);
    files.extend(modules);

    files.extend(existing_files(prefix, &FIRMWARE_DIRECTORIES, &FIRMWARE));
    files.extend(
        COMMON_FILES
            .iter()
            .map(PathBuf::from)
            .filter(|path| path.exists()),
    );

    files.sort();
    files.dedup();
    Ok(files)
}

/// Returns the files with these names that exist in these directories below `prefix`.
fn existing_files(prefix: &Path, directories: &[&str], names: &[&str]) -> Vec<PathBuf> {
    let directories = directories.iter().map(|directory| prefix.join(directory));
    let files =
        directories.flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    files.filter(|path| path.is_file()).collect()
}

/// Lets the dynamic loader list the libraries that it would load. Only the loader is executed; the program runs
/// later, isolated.
fn list_libraries(program: &Path, modules: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    // A statically linked program has none.
    let Some(loader) = find_loader(program)? else {
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

    let output = list_to_end(&mut command)?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(parse_library)
        .collect())
}

/// Runs the loader. A list that was cut off would lack libraries: it is made again once if the loader was killed.
fn list_to_end(command: &mut Command) -> io::Result<Output> {
    let mut output = command.output()?;
    if output.status.signal().is_some() {
        output = command.output()?;
    }

    if output.status.success() {
        return Ok(output);
    }
    let message = format!("listing its libraries failed: {}", output.status);
    Err(io::Error::other(message))
}

/// Returns the dynamic loader that a program names in its header (64-bit ELF). Returns `None` if it names none, or
/// is not such a program, in which case its start will fail.
fn find_loader(program: &Path) -> io::Result<Option<PathBuf>> {
    /// The type of a program header that names the loader.
    const PT_INTERP: usize = 3;
    /// An upper bound of the headers that linkers write, in bytes.
    const MAX_HEADER_BYTES: u64 = 64 * 1024;

    let mut start = Vec::new();
    File::open(program)?
        .take(MAX_HEADER_BYTES)
        .read_to_end(&mut start)?;

    // Little-endian numbers.
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = start.get(at..at.checked_add(bytes)?)?;
        let most_significant_first = field.iter().rev();
        most_significant_first
            .copied()
            .try_fold(0_usize, |sum, byte| {
                Some(sum.checked_mul(256)? + usize::from(byte))
            })
    };

    let find = || -> Option<PathBuf> {
        if !start.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }

        // The table of program headers, and in it the header that names the loader.
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let headers = (0..count).map(|index| table.saturating_add(index * size));
        let mut interpreters = headers.filter(|at| number(*at, 4) == Some(PT_INTERP));
        let header = interpreters.next()?;

        // The name itself.
        let (offset, bytes) = (number(header + 8, 8)?, number(header + 32, 8)?);
        let name = start.get(offset..offset.checked_add(bytes)?)?;
        let name = CStr::from_bytes_with_nul(name).ok()?;
        Some(OsStr::from_bytes(name.to_bytes()).into())
    };
    Ok(find())
}

/// Returns the path in a line like `libz.so.1 => /lib/libz.so.1 (0x0000)` or `/lib64/ld.so (0x0000)`.
fn parse_library(line: &str) -> Option<PathBuf> {
    let path = line.rsplit_once("=>").map_or(line, |(_, path)| path);
    let (path, _) = path.rsplit_once(" (0x")?;
    let path = path.trim();
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_parsed_from_the_output_of_the_loader() {
        let path = |line| parse_library(line).map(|path| path.to_string_lossy().into_owned());
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
    fn a_list_that_was_cut_off_is_made_again_or_rejected() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            list_to_end(&mut command)
        };

        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        let once = format!(
            "[ -e {0} ] || {{ echo part; : >{0}; kill -9 $$; }}; echo whole",
            mark.display()
        );
        assert_eq!(shell(&once).unwrap().stdout, b"whole\n");
        assert!(shell("echo part; kill -9 $$").is_err());
        assert!(shell("echo part; exit 1").is_err());
    }

    #[test]
    fn a_file_without_a_loader_has_no_libraries() {
        for path in ["/etc/passwd", "/dev/null"] {
            assert_eq!(find_loader(Path::new(path)).unwrap(), None);
        }
        let shell = find_loader(Path::new("/bin/sh")).unwrap();
        assert!(shell.is_some_and(|path| path.exists()));
    }

    #[test]
    fn a_shell_requires_itself_and_existing_libraries() {
        let files = required_files(Path::new("/bin/sh")).unwrap();
        assert!(
            files.contains(&"/bin/sh".into()) && files.len() > 2,
            "{files:?}"
        );
        assert!(files.iter().all(|path| path.is_absolute() && path.exists()));
    }
}
