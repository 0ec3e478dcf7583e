use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::interpreter::Interpreter;
use crate::process::{CodeFile, Confinement, FileStamp, Process};

/// The name of a Python program's file.
const PYTHON_MAIN: &str = "main.py";

/// Maximum number of names that are tried.
const MAX_NAME_ATTEMPTS: u32 = 1000;

/// Creates an empty `main.py` in the working directory, or the first free name like it, and returns it with the path that
/// Python is started with. It exists while the interpreter waits, because creating a file takes long in a restored VM.
pub(super) fn create_python_main(
    confinement: &Confinement,
) -> std::io::Result<(File, CodeFile, CString)> {
    let (file, code_file) = create(confinement)?;
    let link = format!("/proc/self/fd/{}", code_file.directory.as_raw_fd());
    let path = std::fs::read_link(link)?.join(&code_file.name);
    let path = CString::new(path.into_os_string().into_vec()).unwrap_or_default();

    Ok((file, code_file, path))
}

impl Interpreter {
    /// Writes a Python program to the file that the interpreter was started for and returns the file's name. Uses another
    /// file if the user has put one in its place or has written to it. Returns `None` if no file can be written, for
    /// example because the disk is full; the interpreter then runs the code without a file.
    pub(crate) fn write_python_main(
        &mut self,
        code: &str,
        confinement: &Confinement,
    ) -> Option<String> {
        let own = self.code_file.take();
        let own = own.filter(|_| self.process.has_pristine_code_file());

        let mut file = match own {
            Some(file) => file,
            None => {
                let (file, code_file) = create(confinement).ok()?;
                self.process.set_code_file(code_file);
                file
            }
        };

        if file.write_all(code.as_bytes()).is_err() {
            let _ = file.set_len(0);
            return None;
        }
        self.process.code_file_was_written(code.len())
    }
}

/// Creates the file. The directory may belong to the user that the code runs as: the file is created, never opened, and no
/// link is followed.
fn create(confinement: &Confinement) -> std::io::Result<(File, CodeFile)> {
    let directory = confinement.working_dir.try_clone()?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let open = |name: &str| openat(&directory, name, flags, Mode::from_raw_mode(0o644));

    // Programs that run at the same time need different names.
    let mut name = PYTHON_MAIN.to_string();
    let mut file = open(&name);
    for number in 2..MAX_NAME_ATTEMPTS {
        if file.as_ref().err() != Some(&Errno::EXIST) {
            break;
        }
        name = format!("main.{number}.py");
        file = open(&name);
    }

    let file = File::from(file?);
    let stat = fstat(&file)?;
    let code_file = CodeFile {
        directory,
        name,
        written: Some(FileStamp::new(&stat, 0, SystemTime::now())),
    };

    if let Some((user, group)) = confinement.credentials
        && let Err(error) = std::os::unix::fs::fchown(&file, Some(user), Some(group))
    {
        Process::new(0, None, Some(code_file)).clean_up(None);
        return Err(error);
    }

    Ok((file, code_file))
}
