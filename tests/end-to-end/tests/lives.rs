//! The lifetime of sandboxes, and idempotency keys within it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use fumehood_end_to_end::{
    RunTranscript, collect, engine, finish_run, is_alive, next_stdout, run_in, sandbox, send,
    shell, shell_ok, wait_until, within_deadline,
};
use fumehood_engine::{
    EndedBy, Engine, ErrorKind, Event, Language, Retry, RunRequest, Sandbox, SandboxEnd,
    SpawnRequest,
};
use rustix::process::Signal;

/// Waits for a sandbox's end, and checks that it had this reason and that nothing is accepted any more.
async fn assert_ends(sandbox: &Sandbox, why: &SandboxEnd) {
    assert_eq!(&within_deadline("its end", sandbox.wait()).await, why);
    assert_eq!(sandbox.ended().as_ref(), Some(why));
    let qemu = sandbox.process_id();
    let is_gone = async {
        while is_alive(qemu) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_deadline("the end of QEMU", is_gone).await;

    let error = sandbox.run(&shell("true")).unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Lost, Retry::Safe),
        "{error}"
    );
    assert!(error.to_string().contains(&why.to_string()), "{error}");
    let error = sandbox.files().read("x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_runs_once() {
    let sandbox = sandbox(512).await;
    let once = "echo run >> runs; echo out; echo err >&2; exit 7";
    let check = |transcript: &RunTranscript| {
        assert_eq!(transcript.end(), (EndedBy::Exited, Some(7)));
        assert_eq!(
            (transcript.out(), transcript.err().as_str()),
            ("out\n", "err\n")
        );
    };

    let in_context = RunRequest::new(Language::Shell, once.replace("exit 7", "(exit 7)"));
    for (n, request) in [shell(once), in_context.context("c")]
        .into_iter()
        .enumerate()
    {
        let request = request.idempotency_key(format!("run-{n}"));
        // Two at the same time: one runs; its events go to the later request, or to both once it has ended.
        let (first, second) = (
            sandbox.run(&request).unwrap(),
            sandbox.run(&request).unwrap(),
        );

        let first = collect(first).await;
        check(&finish_run(second).await);
        match first {
            Ok(first) => check(&first),
            Err(error) => assert_eq!(error.retry(), Retry::Unknown, "{error}"),
        }

        check(&finish_run(sandbox.run(&request).unwrap()).await);
        check(&finish_run(sandbox.attach(format!("run-{n}"), 0).unwrap()).await);
        assert_eq!(
            shell_ok(&sandbox, "wc -l < runs").await,
            format!("{}\n", n + 1)
        );
    }

    let program = SpawnRequest::new(["bash", "-c", once]).idempotency_key("spawn");
    let mut transcript = Vec::new();
    for run in (0..5)
        .map(|_| sandbox.spawn(&program).unwrap())
        .collect::<Vec<_>>()
    {
        transcript.push(collect(run).await);
    }

    check(transcript.last().unwrap().as_ref().unwrap());
    assert_eq!(shell_ok(&sandbox, "wc -l < runs").await, "3\n");

    // The key of another request, while that runs and after its end.
    let mut nap = sandbox
        .run(&shell("echo up; sleep 100").idempotency_key("nap"))
        .unwrap();
    next_stdout(&mut nap).await;
    for request in [
        shell("echo up; sleep 101").idempotency_key("nap"),
        shell("echo other").idempotency_key("run-0"),
        shell(once).env("A", "b").idempotency_key("run-0"),
    ] {
        let error = collect(sandbox.run(&request).unwrap()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Invalid, Retry::Never),
            "{error}"
        );
    }

    nap.canceller().cancel();
    assert_eq!(finish_run(nap).await.outcome.ended_by, EndedBy::Cancelled);

    // Failures are recorded as well.
    let again = finish_run(
        sandbox
            .run(&shell("echo up; sleep 100").idempotency_key("nap"))
            .unwrap(),
    )
    .await;
    assert_eq!(again.end(), (EndedBy::Cancelled, Some(130)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_keys_belong_to_their_clone() {
    let parent = sandbox(512).await;
    let request = shell("echo run >> runs; wc -l < runs").idempotency_key("k");
    assert_eq!(finish_run(parent.run(&request).unwrap()).await.out(), "1\n");
    let ticks = "while :; do echo tick >> ticks; sleep 0.02; done";
    let program = SpawnRequest::new(["bash", "-c", ticks]).idempotency_key("ticks");
    let mut run = parent.spawn(&program).unwrap();
    let pid = run.next().await;
    assert!(matches!(pid, Some(Event::Started { .. })));
    assert!(run.detach().await.unwrap().is_none());
    let child = parent.fork(1).await.unwrap().remove(0);

    // The child has not run it: what its files say is its past.
    assert_eq!(finish_run(child.run(&request).unwrap()).await.out(), "2\n");
    assert_eq!(finish_run(child.run(&request).unwrap()).await.out(), "2\n");
    assert_eq!(finish_run(parent.run(&request).unwrap()).await.out(), "1\n");
    assert_eq!(shell_ok(&parent, "wc -l < runs").await, "1\n");

    // The program continues in both, independently, and can be attached and ended in each.
    for sandbox in [&parent, &child] {
        let moves = "a=$(wc -l < ticks); for i in $(seq 500); do b=$(wc -l < ticks); [ $b -gt $a ] && echo on && exit; sleep 0.02; done";
        assert_eq!(shell_ok(sandbox, moves).await, "on\n");
        let list = sandbox.processes().await.unwrap();
        assert_eq!(list.len(), 1);
        assert!(!list[0].attached);
    }

    let mut run = child.attach("ticks", 0).unwrap();
    assert!(matches!(
        run.next().await,
        Some(Event::Attached { from_seq: 0 })
    ));
    run.canceller().cancel();
    assert_eq!(finish_run(run).await.outcome.ended_by, EndedBy::Cancelled);
    assert!(child.processes().await.unwrap().is_empty());
    assert_eq!(parent.processes().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_vm_is_reported_and_nothing_is_rerun() {
    let sandbox = sandbox(512).await;
    let request = shell("echo up; sleep 100").idempotency_key("k");
    let mut run = sandbox.run(&request).unwrap();
    let mut program = sandbox
        .spawn(&SpawnRequest::new(["sh", "-c", "echo up; sleep 100"]))
        .unwrap();

    let python = sandbox.context("c", Language::Python);
    run_in(&python, "x = 1").await;
    let mut exec = python.run("print('up')\nwhile True: pass").unwrap();
    for run in [&mut run, &mut program, &mut exec] {
        assert_eq!(next_stdout(run).await, "up\n");
    }

    send(sandbox.process_id(), Signal::KILL);
    for run in [run, program, exec] {
        let transcript = finish_run(run).await;
        assert_eq!(transcript.end(), (EndedBy::AgentLost, None));
        assert!(
            transcript.detail().contains("signal"),
            "{}",
            transcript.detail()
        );
    }

    let end = within_deadline("its end", sandbox.wait()).await;
    assert!(
        matches!(&end, SandboxEnd::Lost(known) if known.contains("signal")),
        "{end:?}"
    );

    // Whether it ran is not known any more, and it may not be run elsewhere as if it had not.
    let again = match sandbox.run(&request) {
        Ok(run) => collect(run).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(
        (again.kind(), again.retry()),
        (ErrorKind::Lost, Retry::Unknown),
        "{again}"
    );

    let attached = sandbox.attach("k", 0).unwrap_err();
    assert_eq!(
        (attached.kind(), attached.retry()),
        (ErrorKind::Lost, Retry::Unknown)
    );
    assert_ends(&sandbox, &end).await;
    sandbox.end().await;
    assert_eq!(sandbox.ended(), Some(end), "the first reason holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_all_handles_ends_a_sandbox() {
    let one = sandbox(512).await;
    let other = one.clone();
    assert_eq!(one.ended(), None);
    let mut run = other.run(&shell("echo up; sleep 100")).unwrap();
    next_stdout(&mut run).await;
    one.end().await;
    let transcript = finish_run(run).await;
    assert_eq!(transcript.end(), (EndedBy::AgentLost, None));
    assert!(
        transcript
            .detail()
            .contains(&SandboxEnd::Requested.to_string()),
        "{}",
        transcript.detail()
    );
    assert_ends(&other, &SandboxEnd::Requested).await;

    // The last one that is dropped ends it, also while something runs and contexts and files know of it.
    let last = sandbox(512).await;
    let (qemu, files, context) = (
        last.process_id(),
        last.files(),
        last.context("c", Language::Python),
    );
    run_in(&context, "x = 1").await;
    drop(last);
    files.write("still", "there").await.unwrap();
    drop(files);
    assert!(is_alive(qemu));
    drop(context);
    wait_until("the end of QEMU", || !is_alive(qemu));
}

/// Time without activity after which the sandboxes below end.
const IDLE: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sandbox_ends_and_a_busy_one_stays() {
    let engine = engine();
    // Most of it is waiting.
    tokio::join!(
        activity_keeps_a_sandbox(&engine),
        a_detached_program_does_not_keep_a_sandbox(&engine)
    );
}

async fn activity_keeps_a_sandbox(engine: &Engine) {
    let idle = engine.sandbox().idle_timeout(IDLE).await.unwrap();
    let start = Instant::now();

    // A run that takes longer than that, one request after another, and a watcher keep it.
    let mut run = idle.run(&shell("sleep 2.5; echo done")).unwrap();
    assert_eq!(next_stdout(&mut run).await, "done\n");
    finish_run(run).await;
    let watcher = idle.files().watch(".", false).await.unwrap();
    tokio::time::sleep(IDLE + Duration::from_millis(500)).await;
    assert_eq!(idle.ended(), None);

    drop(watcher);
    let last = Instant::now();
    assert_ends(&idle, &SandboxEnd::Idle(IDLE)).await;
    assert!(last.elapsed() >= IDLE && start.elapsed() > Duration::from_secs(5));
}

/// A program without a client does not keep a sandbox; a longer idle time does, and it can be taken away.
async fn a_detached_program_does_not_keep_a_sandbox(engine: &Engine) {
    let left = engine
        .sandbox()
        .idle_timeout(Duration::from_millis(800))
        .await
        .unwrap();
    left.set_idle_timeout(None);

    let program = SpawnRequest::new(["sleep", "100"]).idempotency_key("k");
    assert!(
        left.spawn(&program)
            .unwrap()
            .detach()
            .await
            .unwrap()
            .is_none()
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(left.processes().await.unwrap().len(), 1);

    left.set_idle_timeout(Some(IDLE));
    assert_ends(&left, &SandboxEnd::Idle(IDLE)).await;
}

/// The lifetime of the sandboxes below.
const LIFETIME: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_ends_at_its_maximum_lifetime() {
    let engine = engine();
    // Most of it is waiting.
    tokio::join!(
        a_busy_sandbox_ends_at_its_lifetime(&engine),
        a_lifetime_can_be_changed(&engine)
    );
}

async fn a_busy_sandbox_ends_at_its_lifetime(engine: &Engine) {
    let start = Instant::now();
    let sandbox = engine
        .sandbox()
        .max_lifetime(LIFETIME)
        .idle_timeout(Duration::from_secs(60))
        .await
        .unwrap();

    let mut run = sandbox.run(&shell("echo up; while :; do :; done")).unwrap();
    next_stdout(&mut run).await;
    let transcript = finish_run(run).await;
    assert_eq!(transcript.end(), (EndedBy::AgentLost, None));
    assert!(
        transcript.detail().contains("lifetime"),
        "{}",
        transcript.detail()
    );
    assert!(start.elapsed() >= LIFETIME);
    assert_ends(&sandbox, &SandboxEnd::Lifetime(LIFETIME)).await;
}

/// It can be made longer, and shorter again.
async fn a_lifetime_can_be_changed(engine: &Engine) {
    let other = engine.sandbox().max_lifetime(LIFETIME).await.unwrap();
    other.set_max_lifetime(Some(Duration::from_secs(3600)));
    tokio::time::sleep(LIFETIME).await;
    assert_eq!(shell_ok(&other, "echo on").await, "on\n");

    other.set_max_lifetime(Some(LIFETIME));
    assert_ends(&other, &SandboxEnd::Lifetime(LIFETIME)).await;
}
