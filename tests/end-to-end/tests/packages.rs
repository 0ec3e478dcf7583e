//! Packages from an index within the guest, which has no network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::finish_ok;
use fumehood_end_to_end::index::{JAVASCRIPT_INDEX, PYTHON_INDEX};
use fumehood_engine::{
    Config, Engine, ErrorKind, Event, InstalledPackage, Language, RunRequest, Sandbox, SpawnRequest,
};

fn package(name: &str, version: &str) -> InstalledPackage {
    InstalledPackage {
        name: name.into(),
        version: version.into(),
    }
}

async fn serve(sandbox: &Sandbox, script: &str, argv: &[&str], port: u16) -> fumehood_engine::Run {
    let made = sandbox
        .run(&RunRequest::new(Language::Python, script))
        .unwrap();
    finish_ok(made).await;
    let server = sandbox
        .spawn(&SpawnRequest::new(argv.iter().copied()))
        .unwrap();

    let waits = format!(
        "for n in $(seq 100); do (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
    );

    let up = sandbox
        .run(&RunRequest::new(Language::Shell, waits))
        .unwrap();
    finish_ok(up).await;

    server
}

#[tokio::test(flavor = "multi_thread")]
async fn python_packages_are_resolved_installed_and_listed() {
    let engine = Engine::start(Config::default()).unwrap();
    let sandbox = engine.sandbox().language(Language::Python).await.unwrap();

    // A context that was there before finds them, too.
    let context = sandbox.context("c", Language::Python);
    finish_ok(context.run("before = 1").unwrap()).await;
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
    assert_eq!(finish_ok(context.run(code).unwrap()).await.0, "1 15\n");
    let once = RunRequest::new(Language::Python, "import tiny; print(tiny.VALUE)");
    assert_eq!(finish_ok(sandbox.run(&once).unwrap()).await.0, "15\n");

    // A conflict and a missing package are reported in the tool's words.
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
        .install(Language::Python, ["tiny=1"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("specifier"), "{error}");

    // Without a version, an installed one is enough.
    let again = sandbox.install(Language::Python, ["tiny"]).await.unwrap();
    assert_eq!(again, installed);
    server.canceller().cancel();
    server.outcome().await.unwrap();
}

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

    let server = serve(&sandbox, JAVASCRIPT_INDEX, &argv, 8001).await;
    let installed = sandbox
        .install(Language::Javascript, ["tiny@^1"])
        .await
        .unwrap();
    assert_eq!(installed, [package("tiny", "1.2.0")]);
    let context = sandbox.context("c", Language::Javascript);
    let code = "import tiny from 'tiny'; console.log(tiny)";
    assert_eq!(finish_ok(context.run(code).unwrap()).await.0, "1.2.0\n");
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
