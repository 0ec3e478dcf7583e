//! Packages, from an index in the guest itself: it has no network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::succeeded;
use fumehood_engine::{
    Config, Engine, ErrorKind, Event, InstalledPackage, Language, RunRequest, Sandbox, SpawnRequest,
};

fn package(name: &str, version: &str) -> InstalledPackage {
    InstalledPackage {
        name: name.into(),
        version: version.into(),
    }
}

/// Makes wheels of two small packages, one of which wants the other, and serves them as an index does.
const PYTHON_INDEX: &str = r#"
import hashlib, os, zipfile
def wheel(name, version, body, requires=""):
    place = "index/" + name.replace("_", "-")
    os.makedirs(place, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(f"{place}/{file}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    with open(f"{place}/index.html", "a") as page:
        digest = hashlib.sha256(open(f"{place}/{file}", "rb").read()).hexdigest()
        page.write(f'<a href="{file}#sha256={digest}">{file}</a>\n')
wheel("tiny", "1.0", "VALUE = 1\n")
wheel("tiny", "1.5", "VALUE = 15\n")
wheel("tiny", "2.0", "VALUE = 2\n")
wheel("user_of_tiny", "0.3", "from tiny import VALUE\n", "Requires-Dist: tiny<2\n")
os.makedirs(".config/uv", exist_ok=True)
open(".config/uv/uv.toml", "w").write('[[index]]\nurl = "http://127.0.0.1:8000"\ndefault = true\n')
"#;

async fn serve(sandbox: &Sandbox, script: &str, argv: &[&str], port: u16) -> fumehood_engine::Run {
    let made = sandbox
        .run(&RunRequest::new(Language::Python, script))
        .unwrap();
    succeeded(made).await;
    let server = sandbox
        .spawn(&SpawnRequest::new(argv.iter().copied()))
        .unwrap();
    let waits = format!(
        "for n in $(seq 100); do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
    );
    let up = sandbox.run(&RunRequest::new(Language::Raw, waits)).unwrap();
    succeeded(up).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn python_packages_are_resolved_installed_and_listed() {
    let engine = Engine::start(Config::default()).unwrap();
    let sandbox = engine.sandbox().language(Language::Python).await.unwrap();
    // A context that was there before finds them, too.
    let context = sandbox.context("c", Language::Python);
    succeeded(context.run("before = 1").unwrap()).await;
    let argv = [
        "python3",
        "-m",
        "http.server",
        "-d",
        "index",
        "--bind",
        "127.0.0.1",
        "8000",
    ];
    let server = serve(&sandbox, PYTHON_INDEX, &argv, 8000).await;
    let installed = sandbox
        .install(Language::Python, ["user_of_tiny>=0.1"])
        .await
        .unwrap();
    assert_eq!(
        installed,
        [package("tiny", "1.5"), package("user-of-tiny", "0.3")]
    );
    let code = "import user_of_tiny; print(before, user_of_tiny.VALUE)";
    assert_eq!(succeeded(context.run(code).unwrap()).await.0, "1 15\n");
    let once = RunRequest::new(Language::Python, "import tiny; print(tiny.VALUE)");
    assert_eq!(succeeded(sandbox.run(&once).unwrap()).await.0, "15\n");
    // A conflict and a package that is not there are told in the tool's own words.
    let error = sandbox
        .install(Language::Python, ["user_of_tiny==0.3", "tiny==2.0"])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("tiny<2"), "{error}");
    let error = sandbox
        .install(Language::Python, ["absent==1"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    let error = sandbox
        .install(Language::Python, ["tiny"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("version"), "{error}");
    server.canceller().cancel();
    server.outcome().await.unwrap();
}

/// A registry of one package, for bun.
const JAVASCRIPT_REGISTRY: &str = r#"
import base64, gzip, hashlib, io, json, os, tarfile
os.makedirs("registry", exist_ok=True)
def pack(version):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for path, text in {
            "package/package.json": json.dumps({"name": "tiny", "version": version, "main": "index.js"}),
            "package/index.js": f"module.exports = '{version}';\n",
        }.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    file = f"tiny-{version}.tgz"
    open("registry/" + file, "wb").write(raw.getvalue())
    digest = base64.b64encode(hashlib.sha512(raw.getvalue()).digest()).decode()
    return {"name": "tiny", "version": version,
            "dist": {"tarball": "http://127.0.0.1:8001/" + file, "integrity": "sha512-" + digest}}
versions = {version: pack(version) for version in ("1.0.0", "1.2.0", "2.0.0")}
document = {"name": "tiny", "dist-tags": {"latest": "2.0.0"}, "versions": versions}
open("registry/tiny", "w").write(json.dumps(document))
open(".bunfig.toml", "w").write('[install]\nregistry = "http://127.0.0.1:8001"\n')
"#;

#[tokio::test(flavor = "multi_thread")]
async fn javascript_packages_are_resolved_installed_and_listed() {
    let engine = Engine::start(Config::default()).unwrap();
    let sandbox = engine
        .sandbox()
        .language(Language::Javascript)
        .await
        .unwrap();
    let argv = [
        "python3",
        "-m",
        "http.server",
        "-d",
        "registry",
        "--bind",
        "127.0.0.1",
        "8001",
    ];
    let server = serve(&sandbox, JAVASCRIPT_REGISTRY, &argv, 8001).await;
    let installed = sandbox
        .install(Language::Javascript, ["tiny@^1"])
        .await
        .unwrap();
    assert_eq!(installed, [package("tiny", "1.2.0")]);
    let context = sandbox.context("c", Language::Javascript);
    let code = "import tiny from 'tiny'; console.log(tiny)";
    assert_eq!(succeeded(context.run(code).unwrap()).await.0, "1.2.0\n");
    let mut once = sandbox
        .run(&RunRequest::new(Language::Javascript, code))
        .unwrap();
    let mut out = Vec::new();
    while let Some(event) = once.next().await {
        if let Event::Stdout(bytes) = event {
            out.extend_from_slice(&bytes);
        }
    }
    assert_eq!(out, b"1.2.0\n");
    let error = sandbox
        .install(Language::Javascript, ["absent@1"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    server.canceller().cancel();
    server.outcome().await.unwrap();
}
