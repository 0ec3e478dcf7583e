use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::interpreter::Interpreter;
use crate::process::{CodeFile, Confinement, FileStamp, Process};

/// The name of a Python program's file.
const PYTHON_MAIN: &str = "main.py";

/// Maximum number of names that are tried.
const MAX_NAME_ATTEMPTS: u32 = 1000;

/// Returns the path that Python is started with. The file does not exist before there is a program.
pub(super) fn python_program(confinement: &Confinement) -> CString {
    let path = working_dir(confinement).join(PYTHON_MAIN);
    CString::new(path.into_os_string().into_encoded_bytes()).unwrap_or_default()
}

fn working_dir(confinement: &Confinement) -> PathBuf {
    let link = format!("/proc/self/fd/{}", confinement.working_dir.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from("."))
}

impl Interpreter {
    /// Writes a Python program to `main.py` in the working directory, or to the first free name like it, and returns the
    /// path. The file is removed when the process ends. Returns `None` if the file cannot be written, for example because
    /// the disk is full; the interpreter then runs the code without a file.
    pub(crate) fn create_main_file(
        &mut self,
        code: &str,
        confinement: &Confinement,
    ) -> Option<String> {
        let (file, name) = create(confinement).ok()?;
        let directory = confinement.working_dir.try_clone().ok()?;
        let path = working_dir(confinement).join(&name);

        let written = write(file, code, confinement);
        let main_file = CodeFile {
            directory,
            name,
            written: written.as_ref().ok().cloned(),
        };

        if written.is_err() {
            Process::new(0, None, Some(main_file)).clean_up(None);
            return None;
        }
        self.process.set_code_file(main_file);

        path.into_os_string().into_string().ok()
    }
}

/// Creates the file. The directory may belong to the user that the code runs as: the file is created, never opened, and no
/// link is followed.
fn create(confinement: &Confinement) -> rustix::io::Result<(File, String)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);

    // Programs that run at the same time need different names.
    let others = (2..MAX_NAME_ATTEMPTS).map(|number| format!("main.{number}.py"));
    for name in std::iter::once(PYTHON_MAIN.to_string()).chain(others) {
        match openat(&confinement.working_dir, &name, flags, mode) {
            Ok(file) => return Ok((file.into(), name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }

    Err(Errno::EXIST)
}

fn write(mut file: File, code: &str, confinement: &Confinement) -> std::io::Result<FileStamp> {
    if let Some((user, group)) = confinement.credentials {
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
    }
    file.write_all(code.as_bytes())?;

    Ok(FileStamp::of(&fstat(&file)?))
}
