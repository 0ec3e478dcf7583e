//! Checkpoints and forks of live sandboxes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::guest::engine_without_templates;
use fumehood_end_to_end::{engine, request_ok, shell};
use fumehood_engine::{ErrorKind, Language, RunRequest, VmOrigin};

fn python(code: &str) -> RunRequest {
    RunRequest::new(Language::Python, code).context("main")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_inherit_state_and_diverge() {
    let engine = engine();
    let parent = engine
        .sandbox()
        .language(Language::Python)
        .memory_mib(512)
        .await
        .unwrap();

    request_ok(
        &parent,
        python("import random; x = [1, 2, 3]; random.seed(5)"),
    )
    .await;

    request_ok(
        &parent,
        shell("echo kept > file; (sleep 1000 & echo $! > pid)"),
    )
    .await;

    let shell_context = || RunRequest::new(Language::Shell, "y=5; cd /tmp").context("shell");
    request_ok(&parent, shell_context()).await;

    let name = request_ok(
        &parent,
        shell("cat /etc/machine-id /etc/hostname; uname -n"),
    )
    .await;

    let children = parent.fork(3).await.unwrap();
    assert_eq!(
        request_ok(
            &parent,
            shell("cat /etc/machine-id /etc/hostname; uname -n")
        )
        .await,
        name
    );
    assert_eq!(children.len(), 3);
    let mut random = vec![request_ok(&parent, python("print(random.random(), x)")).await];
    let mut ids = vec![request_ok(&parent, shell("cat /etc/machine-id")).await];

    for (n, child) in children.iter().enumerate() {
        assert_eq!(child.source(), VmOrigin::Checkpoint);
        assert_eq!(request_ok(child, shell("cat file")).await, "kept\n");
        let request = RunRequest::new(Language::Shell, "echo $y $PWD").context("shell");
        assert_eq!(request_ok(child, request).await, "5 /tmp\n");
        random.push(request_ok(child, python("print(random.random(), x)")).await);
        ids.push(request_ok(child, shell("cat /etc/machine-id")).await);
        request_ok(child, python(&format!("x.append({n})"))).await;
        request_ok(child, shell(format!("echo {n} > file"))).await;
    }

    for (n, child) in children.iter().enumerate() {
        assert_eq!(
            request_ok(child, python("print(x)")).await,
            format!("[1, 2, 3, {n}]\n")
        );
        assert_eq!(request_ok(child, shell("cat file")).await, format!("{n}\n"));
    }

    assert_eq!(request_ok(&parent, python("print(x)")).await, "[1, 2, 3]\n");
    assert_eq!(request_ok(&parent, shell("cat file")).await, "kept\n");
    for values in [&mut random, &mut ids] {
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 4, "{values:?}");
    }

    // And children of a child.
    let grandchild = children[1].fork(1).await.unwrap().remove(0);
    assert_eq!(
        request_ok(&grandchild, python("print(x)")).await,
        "[1, 2, 3, 1]\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_outlives_its_sandbox() {
    let engine = engine();
    let sandbox = engine
        .sandbox()
        .language(Language::Python)
        .memory_mib(512)
        .await
        .unwrap();
    request_ok(&sandbox, python("big = bytes(range(256)) * 40000")).await;
    let checkpoint = sandbox.checkpoint().await.unwrap();
    assert!(checkpoint.bytes() > 10 * 1024 * 1024);
    request_ok(&sandbox, python("big = None")).await;
    sandbox.end().await;

    for _ in 0..2 {
        let opened = engine.open(&checkpoint).await.unwrap();
        let code = "print(len(big), big == bytes(range(256)) * 40000)";
        assert_eq!(request_ok(&opened, python(code)).await, "10240000 True\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forking_a_busy_sandbox_fails_and_leaves_it_running() {
    let engine = engine();
    let sandbox = engine.sandbox().memory_mib(512).await.unwrap();
    let mut busy = sandbox.run(&shell("echo up; sleep 100")).unwrap();
    busy.next().await.unwrap();
    let error = sandbox.fork(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(request_ok(&sandbox, shell("echo on")).await, "on\n");
    drop(busy);
}

/// The end of a program is reported before its process is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_right_after_a_program_succeeds() {
    let sandbox = engine()
        .sandbox()
        .language(Language::Python)
        .memory_mib(512)
        .await
        .unwrap();

    for round in 0..5 {
        let code = format!("x = bytearray(20 << 20); print({round})");
        let said = request_ok(&sandbox, RunRequest::new(Language::Python, &code)).await;
        assert_eq!(said, format!("{round}\n"));
        let children = sandbox.fork(1).await.unwrap();
        assert_eq!(
            request_ok(&children[0], shell("echo child")).await,
            "child\n"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_booted_sandbox_can_be_forked_too() {
    let engine = engine_without_templates();
    let sandbox = engine.sandbox().memory_mib(256).await.unwrap();
    assert_eq!(sandbox.source(), VmOrigin::Boot);
    request_ok(&sandbox, shell("echo kept > file")).await;
    let child = sandbox.fork(1).await.unwrap().remove(0);
    assert_eq!(request_ok(&child, shell("cat file")).await, "kept\n");
}
