use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use fumehood_engine::{Language, Network, RunRequest};

use crate::args::{Run as RunArgs, environment};
use crate::transfer::{Download, Upload};

/// What the words ask for.
pub(super) struct Plan {
    pub(super) language: Language,
    pub(super) code: String,
    pub(super) request: RunRequest,
    pub(super) network: Option<Network>,
    pub(super) uploads: Vec<Upload>,
    pub(super) downloads: Vec<Download>,
}

pub(super) fn plan(args: &RunArgs) -> anyhow::Result<Plan> {
    let uploads = args.uploads.upload.iter();
    let downloads = args.download.iter();
    let (language, code) = program(args)?;
    Ok(Plan {
        language,
        request: request(args, language, &code)?,
        code,
        network: args.network.network()?,
        uploads: uploads
            .map(|word| Upload::parse(word))
            .collect::<Result<_, _>>()?,
        downloads: downloads
            .map(|word| Download::parse(word))
            .collect::<Result<_, _>>()?,
    })
}

fn request(args: &RunArgs, language: Language, code: &str) -> anyhow::Result<RunRequest> {
    let mut request = RunRequest::new(language, code)
        .timeout_s(args.timeout)
        .memory_mib(args.memory);
    for variable in &args.env {
        let (name, value) = environment(variable)?;
        request = request.env(name, value);
    }
    if args.fresh_interpreter {
        request = request.fresh_interpreter();
    }
    if args.stdin {
        request = request.stdin();
    }
    if args.display {
        request = request.display();
    }
    if let Some(dir) = &args.cwd {
        request = request.cwd(dir);
    }
    Ok(request)
}

/// The language and the text of what is to be run.
fn program(args: &RunArgs) -> anyhow::Result<(Language, String)> {
    let file = args.file.as_deref();
    let by_extension = || {
        file?
            .extension()?
            .to_str()
            .and_then(Language::from_extension)
    };
    let Some(language) = args.language.or_else(by_extension) else {
        bail!("which language? name it with -l python, -l javascript or -l raw (shell)");
    };
    if args.stdin && file == Some(Path::new("-")) {
        bail!("standard input cannot be both the program (-) and its input (--stdin)");
    }
    let code = match (file, &args.code) {
        (Some(file), _) => read(file)?,
        (None, Some(code)) => code.clone(),
        (None, None) => {
            bail!("nothing to run: name a file, or - for standard input, or give -c CODE")
        }
    };
    Ok((language, code))
}

/// Reads no more than can be valid, and one byte more: the engine says what is too long.
fn read(file: &Path) -> anyhow::Result<String> {
    let most = fumehood_engine::Limits::default().code_bytes + 1;
    let mut bytes = Vec::new();
    let result = if file == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(most).read_to_end(&mut bytes))
    };
    result.with_context(|| format!("{} cannot be read", file.display()))?;
    if bytes.len() as u64 == most {
        bail!(
            "{} has more than {} bytes; that is the most code that is allowed",
            file.display(),
            most - 1
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is no UTF-8 text at byte {at}", file.display())
    })
}
