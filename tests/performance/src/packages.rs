//! Runs with packages, restored from a template that contains them.

use std::sync::Arc;

use anyhow::{Context, ensure};
use fumehood_engine::{Engine, Language, RunRequest, VmOrigin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::network::{SERVER, enter_private_network};
use crate::series::{Series, verdict};

/// Three packages of one small module each.
const PACKAGES: [&str; 3] = ["first==1.0", "second==1.0", "third==1.0"];

/// The code that creates their wheels and an index of them in the directory `index`.
const INDEX: &str = r#"
import os, zipfile
for name in ("first", "second", "third"):
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"VALUE = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    os.makedirs(f"index/{name}", exist_ok=True)
    wheel = f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"index/{name}/{wheel}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    open(f"index/{name}/index.html", "w").write(f'<a href="{wheel}">{wheel}</a>')
"#;

/// The target ratio of a run with packages to a run without.
const TARGET_RATIO: f64 = 1.5;

/// The port of the index.
const PORT: u16 = 8000;

/// Measures in a private network namespace, in which the host's tools are configured for this process's index.
pub(crate) async fn measure(engine: &Engine, rounds: u32) -> anyhow::Result<()> {
    let index = format!("http://{SERVER}:{PORT}/");
    let configured = [
        ("UV_DEFAULT_INDEX", index.as_str()),
        ("PIP_CONFIG_FILE", "/dev/null"),
        ("PIP_INDEX_URL", ""),
        ("PIP_EXTRA_INDEX_URL", ""),
    ];

    if !enter_private_network("packages", rounds, &configured).await? {
        return Ok(());
    }

    serve(engine).await?;
    let plain = || RunRequest::new(Language::Python, "print('hello')");
    let with = || {
        let code = "import first, second, third; print('hello')";
        RunRequest::new(Language::Python, code).packages(PACKAGES)
    };
    // Install the packages, unless an earlier run did.
    engine.run(with())?.outcome().await?;
    let mut restores = Series::new("packages: Python, restored");
    let mut packages = Series::new("packages: Python, restored with three packages, imported");

    for _ in 0..rounds {
        for (series, request) in [(&mut restores, plain()), (&mut packages, with())] {
            let outcome = engine.run(request)?.outcome().await?;
            let is_good = outcome.exit_code == Some(0) && outcome.source == VmOrigin::Template;
            ensure!(is_good, "a run failed: {outcome:?}");
            series.add(outcome.timing.total);
        }
    }

    restores.print();
    packages.print();
    let ratio = packages.median() / restores.median();
    println!(
        "packages: {ratio:.2} times the plain restore (target {TARGET_RATIO}) {}",
        verdict(ratio <= TARGET_RATIO)
    );

    Ok(())
}

/// Creates the index in a guest and serves it from this process.
async fn serve(engine: &Engine) -> anyhow::Result<()> {
    let sandbox = engine.sandbox().language(Language::Python).await?;
    let made = sandbox.run(&RunRequest::new(Language::Python, INDEX))?;
    ensure!(
        made.outcome().await?.exit_code == Some(0),
        "the index was not created"
    );

    // The files of the index, by the path of their URL.
    let mut files = Vec::new();
    for entry in sandbox.files().list_recursive("index", 2).await? {
        let path = entry.path.clone();
        if path.ends_with(".whl") || path.ends_with(".html") {
            let body = sandbox.files().read(&format!("index/{path}")).await?;
            files.push((format!("/{}", path.trim_end_matches("index.html")), body));
        }
    }

    sandbox.end().await;
    ensure!(
        files.len() == 2 * PACKAGES.len(),
        "the index has {} files",
        files.len()
    );

    let shared = Arc::new(files);
    let listener = TcpListener::bind((SERVER, PORT)).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let files = shared.clone();
            tokio::spawn(async move { answer(stream, &files).await });
        }
    });

    Ok(())
}

/// Answers one request.
async fn answer(mut stream: TcpStream, files: &[(String, bytes::Bytes)]) -> anyhow::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }

    let head = String::from_utf8_lossy(&request).into_owned();
    let path = head.split(' ').nth(1).context("the request has no path")?;
    let found = files.iter().find(|(name, _)| name == path);
    let (status, body) = match found {
        Some((_, body)) => ("200 OK", body.clone()),
        None => ("404 Not Found", bytes::Bytes::new()),
    };

    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    if !head.starts_with("HEAD") {
        stream.write_all(&body).await?;
    }

    Ok(stream.shutdown().await?)
}
