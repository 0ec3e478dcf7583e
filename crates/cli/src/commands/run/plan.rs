//! The request that the arguments make.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use fumehood_engine::{Language, Limits, RunRequest};

use super::folders::MountedFolders;
use crate::args::RunArgs;
use crate::io::eprint_message;
use crate::requirements::program_packages;
use crate::transfer::{Download, Upload};

/// The program to run.
pub(super) struct Program {
    pub(super) language: Language,
    pub(super) code: String,
    /// The packages of the options and those that the program names.
    pub(super) packages: Vec<String>,
}

/// Checks the arguments and reads the program and the mounted folders. Returns the program, the complete request for an
/// engine, and the folders.
///
/// # Errors
/// An argument is invalid, or a local file cannot be read.
pub(super) fn plan(args: &RunArgs) -> anyhow::Result<(Program, RunRequest, MountedFolders)> {
    let program = read_program(args)?;
    let folders = MountedFolders::open(args)?;
    let request = folders.add_to_run(run_request(args, &program)?);
    Ok((program, request, folders))
}

fn run_request(args: &RunArgs, program: &Program) -> anyhow::Result<RunRequest> {
    let mut request = RunRequest::new(program.language, &program.code)
        .timeout_s(args.timeout)
        .memory_mib(args.memory)
        .args(&args.args);

    // How the program runs.
    for (name, value) in args.environment.variables()? {
        request = request.env(name, value);
    }
    if args.fresh_interpreter {
        request = request.fresh_interpreter();
    }
    if args.forwards_stdin() {
        request = request.stdin();
    }
    if args.display {
        request = request.display();
    }
    if let Some(dir) = &args.cwd {
        request = request.cwd(dir);
    }

    // What is around it. A local file that does not exist is an error here, before anything is started.
    if let Some(network) = args.network.network()? {
        request = request.network(network);
    }
    for upload in Upload::parse_all(&args.uploads.upload)? {
        request = request.upload(upload.local, upload.remote);
    }
    for download in Download::parse_all(&args.download)? {
        request = request.download(download.remote, download.local);
    }
    Ok(args.packages.add_to_run(&program.packages, request))
}

fn read_program(args: &RunArgs) -> anyhow::Result<Program> {
    let file = args.file.as_deref();
    // An explicit language takes precedence over the file's extension.
    let Some(language) = args.language.or_else(|| language_of(file?)) else {
        bail!(
            "unknown language; select one with -l python, -l javascript, -l typescript or -l shell"
        );
    };
    if args.stdin && file == Some(Path::new("-")) {
        bail!("standard input cannot be both the program (-) and its input (--stdin)");
    }

    let code = match (file, &args.code) {
        (Some(file), _) => read_code(file)?,
        (None, Some(code)) => code.clone(),
        (None, None) => {
            bail!("no program given; name a file, or - for standard input, or use -c CODE")
        }
    };
    let packages = packages(args, language, &code)?;
    Ok(Program {
        language,
        code,
        packages,
    })
}

/// Returns the packages of the options and those that the program names. Prints the latter.
fn packages(args: &RunArgs, language: Language, code: &str) -> anyhow::Result<Vec<String>> {
    let mut packages = args.packages.packages(language)?;
    if args.no_script_packages {
        return Ok(packages);
    }

    let Some(found) = program_packages(language, code, args.file.as_deref())? else {
        return Ok(packages);
    };
    if !args.quiet {
        for skipped in &found.skipped {
            eprint_message(&format!("{}: {skipped}", found.source));
        }
        if !found.packages.is_empty() {
            let names = found.packages.join(", ");
            let source = &found.source;
            eprint_message(&format!(
                "packages of the {source}: {names} (--no-script-packages ignores them)"
            ));
        }
    }

    packages.extend(found.packages);
    Ok(packages)
}

fn language_of(file: &Path) -> Option<Language> {
    Language::from_extension(file.extension()?.to_str()?)
}

/// Reads a program from a file, or from standard input for `-`.
///
/// # Errors
/// It cannot be read, is too long or is not valid UTF-8.
pub(crate) fn read_code(file: &Path) -> anyhow::Result<String> {
    // One byte more than allowed is enough to detect a program that is too long.
    let max_bytes = Limits::default().code_bytes;
    let mut bytes = Vec::new();
    let result = if file == Path::new("-") {
        let stdin = std::io::stdin().lock();
        stdin.take(max_bytes + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|opened| opened.take(max_bytes + 1).read_to_end(&mut bytes))
    };

    let shown = file.display();
    result.with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > max_bytes {
        bail!("{shown} is larger than {max_bytes} bytes, the maximum for code");
    }
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{shown} is not valid UTF-8 (at byte {position})")
    })
}
