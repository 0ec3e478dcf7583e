//! Programs are started, written to, signalled, listed, detached and attached, and never run twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use fumehood_end_to_end::{
    DEADLINE, RunTranscript, collect, engine, finish_run, next_stdout, read_stdout_until, run_in,
    sandbox, shell_ok,
};
use fumehood_engine::{
    EndedBy, ErrorKind, Event, Language, ProcessInfo, ProcessKind, Retry, Run, Sandbox,
    SpawnRequest,
};

fn script(code: &str) -> SpawnRequest {
    SpawnRequest::new(["bash", "-c", code])
}

async fn run_program(sandbox: &Sandbox, request: &SpawnRequest) -> RunTranscript {
    finish_run(sandbox.spawn(request).unwrap()).await
}

/// Lists the processes until the list is as expected.
async fn wait_for_list(
    sandbox: &Sandbox,
    what: &str,
    is_right: impl Fn(&[ProcessInfo]) -> bool,
) -> Vec<ProcessInfo> {
    let mut list = Vec::new();
    let look = async {
        loop {
            list = sandbox.processes().await.unwrap();
            if is_right(&list) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    let found = tokio::time::timeout(DEADLINE, look).await;
    assert!(found.is_ok(), "{what}: {list:#?}");

    list
}

/// Reads a run's first event, which has its process ID.
async fn read_pid(run: &mut Run) -> i32 {
    match tokio::time::timeout(DEADLINE, run.next()).await.unwrap() {
        Some(Event::Started { pid }) => pid,
        other => panic!("not started: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_gets_its_arguments_variables_directory_and_input() {
    let sandbox = sandbox(512).await;
    let code = "printf '%s|' \"$0\" \"$@\" \"$A\"; pwd; cat; echo err >&2; exit 3";
    let request = SpawnRequest::new(["bash", "-c", code, "a b", "*", "", "é\n"])
        .env("A", "c\nd 'e'")
        .cwd("/usr")
        .stdin();

    let run = sandbox.spawn(&request).unwrap();
    let mut input = run.input();
    input.write(&b"\xff\0\n"[..]).await.unwrap();
    input.close().await;
    let transcript = finish_run(run).await;
    assert_eq!(
        transcript.stdout,
        b"a b|*||\xc3\xa9\n|c\nd 'e'|/usr\n\xff\0\n"
    );
    assert_eq!(
        (transcript.err().as_str(), transcript.end()),
        ("err\n", (EndedBy::Exited, Some(3)))
    );

    // Without input it is empty.
    assert_eq!(
        run_program(&sandbox, &SpawnRequest::new(["cat"]))
            .await
            .end()
            .1,
        Some(0)
    );

    for (request, io_kind) in [
        (
            SpawnRequest::new(["no-such-program"]),
            Some(std::io::ErrorKind::NotFound),
        ),
        (SpawnRequest::new(["/etc/passwd"]), None),
        (
            SpawnRequest::new(["true"]).cwd("/nowhere"),
            Some(std::io::ErrorKind::NotFound),
        ),
    ] {
        let error = collect(sandbox.spawn(&request).unwrap()).await.unwrap_err();
        assert!(
            io_kind.is_none_or(|kind| error.io_kind() == Some(kind)),
            "{error}"
        );
    }

    for request in [
        SpawnRequest::new(Vec::<String>::new()),
        SpawnRequest::new(["a\0b"]),
        SpawnRequest::new(["true"]).env("LD_PRELOAD", "x"),
        SpawnRequest::new(["true"]).tag("t".repeat(129)),
        SpawnRequest::new(["true"]).idempotency_key("with space"),
        SpawnRequest::new(["true"]).idempotency_key("k".repeat(129)),
        SpawnRequest::new(["x".repeat(131_073)]),
    ] {
        let error = sandbox.spawn(&request).unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Invalid, Retry::Never),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_ends_by_timeout_by_signals_and_with_its_run() {
    let sandbox = sandbox(512).await;
    let timed = run_program(&sandbox, &SpawnRequest::new(["sleep", "100"]).timeout_s(1)).await;
    assert_eq!(timed.end(), (EndedBy::Timeout, Some(124)));
    let mut run = sandbox.spawn(&SpawnRequest::new(["sleep", "100"])).unwrap();
    read_pid(&mut run).await;
    run.canceller().signal(15).unwrap();
    let signalled = finish_run(run).await;
    assert_eq!(signalled.end(), (EndedBy::Signaled, Some(143)));
    assert_eq!(signalled.outcome.evidence.signal, Some(15));
    let mut run = sandbox
        .spawn(&script(
            "trap 'echo heard; exit 5' USR1; echo up; while :; do sleep 0.01; done",
        ))
        .unwrap();
    assert_eq!(next_stdout(&mut run).await, "up\n");
    run.canceller().signal(10).unwrap();
    let transcript = finish_run(run).await;
    assert_eq!(
        (transcript.out(), transcript.end()),
        ("heard\n", (EndedBy::Exited, Some(5)))
    );

    let mut run = sandbox
        .spawn(&script("trap '' INT TERM; echo up; while :; do :; done"))
        .unwrap();
    next_stdout(&mut run).await;
    run.canceller().cancel();
    assert_eq!(finish_run(run).await.end(), (EndedBy::Cancelled, Some(130)));

    // Dropped, it ends, with those that it has started.
    let mut run = sandbox.spawn(&script("sleep 100 & echo up; wait")).unwrap();
    next_stdout(&mut run).await;
    drop(run);
    wait_for_list(&sandbox, "a dropped program is gone", <[_]>::is_empty).await;
    assert_eq!(shell_ok(&sandbox, "pgrep -xc sleep || true").await, "0\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_has_a_terminal() {
    let sandbox = sandbox(512).await;
    let code = "tty -s && stty size; stty -echo; read -r a; echo \"<$a>\"; trap 'stty size' WINCH; echo ready; while ! read -r b; do :; done; echo end";
    let mut run = sandbox.spawn(&script(code).pty(30, 100)).unwrap();
    let mut input = run.input();
    assert_eq!(read_stdout_until(&mut run, "\n").await, "30 100\r\n");
    input.write("typed\n").await.unwrap();
    let said = read_stdout_until(&mut run, "ready\r\n").await;
    assert!(said.ends_with("<typed>\r\nready\r\n"), "{said:?}");
    run.canceller().resize(50, 132);
    input.write("\n").await.unwrap();
    let transcript = finish_run(run).await;
    assert!(
        transcript.out().ends_with("50 132\r\nend\r\n"),
        "{:?}",
        transcript.out()
    );
    assert_eq!(
        (transcript.err().as_str(), transcript.end().1),
        ("", Some(0))
    );

    // Ctrl-C, and the end of input.
    let mut run = sandbox
        .spawn(&script("echo up; exec cat").pty(24, 80))
        .unwrap();
    read_stdout_until(&mut run, "up\r\n").await;
    run.input().write("\x03").await.unwrap();
    assert_eq!(finish_run(run).await.end(), (EndedBy::Signaled, Some(130)));
    let run = sandbox
        .spawn(&SpawnRequest::new(["cat"]).pty(24, 80))
        .unwrap();

    let mut input = run.input();
    input.write("x\n").await.unwrap();
    input.close().await;
    let transcript = finish_run(run).await;
    assert_eq!(
        (transcript.out(), transcript.end().1),
        ("x\r\nx\r\n", Some(0))
    );

    // Without one there is no size to be had, and that is no matter.
    let run = sandbox.spawn(&SpawnRequest::new(["cat"]).stdin()).unwrap();
    run.canceller().resize(10, 10);
    run.input().close().await;
    assert_eq!(finish_run(run).await.end().1, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_processes_are_listed() {
    let sandbox = sandbox(512).await;
    assert!(sandbox.processes().await.unwrap().is_empty());
    let mut run = sandbox
        .spawn(
            &SpawnRequest::new(["sleep", "100"])
                .tag("naps")
                .idempotency_key("nap"),
        )
        .unwrap();

    let nap = read_pid(&mut run).await;

    // A server that a context has started lives on between execs, and belongs to it.
    let python = sandbox.context("web", Language::Python);
    let serve = "import subprocess, sys\nserver = subprocess.Popen([sys.executable, '-m', 'http.server', '8000'], stdout=-3, stderr=-3)\nprint(server.pid)";
    let server: i32 = run_in(&python, serve).await.out().trim().parse().unwrap();
    let fetch = "import urllib.request, time
for _ in range(1000):
    try:
        print(urllib.request.urlopen('http://127.0.0.1:8000/').status)
        break
    except OSError: time.sleep(0.05)";
    assert_eq!(
        run_in(&sandbox.context("client", Language::Python), fetch)
            .await
            .out(),
        "200\n"
    );

    let list = wait_for_list(&sandbox, "a program and two contexts", |list| {
        list.len() == 3 && list.iter().any(|one| one.command == "sleep 100")
    })
    .await;

    let find = |kind, context: Option<&str>| {
        let is_it = |one: &&ProcessInfo| one.kind == kind && one.context.as_deref() == context;
        list.iter().find(is_it).unwrap()
    };

    let one = find(ProcessKind::Spawn, None);
    assert_eq!(
        (one.pid, one.tag.as_deref(), one.attached),
        (nap, Some("naps"), true)
    );
    assert_eq!(one.idempotency_key.as_ref().unwrap().as_str(), "nap");
    assert_eq!(one.pids, [nap]);
    let web = find(ProcessKind::Context, Some("web"));
    assert!(
        web.pids.contains(&web.pid) && web.pids.contains(&server),
        "{web:?}"
    );
    assert!(
        !find(ProcessKind::Context, Some("client"))
            .pids
            .contains(&server)
    );

    // A long command is cut, and one that a program chose is shown as it is.
    let long = "x".repeat(100_000);
    let run = sandbox
        .spawn(&SpawnRequest::new([
            "bash",
            "-c",
            "exec -a $'\\e[31mforged\\n' sleep 50",
            &long,
        ]))
        .unwrap();

    let list = wait_for_list(&sandbox, "its name", |list| {
        list.iter().any(|one| one.command.contains("forged"))
    })
    .await;
    assert!(list.iter().all(|one| one.command.len() < 10_000));
    drop(run);

    // It ends with its context.
    python.close().await.unwrap();
    assert_eq!(
        shell_ok(
            &sandbox,
            &format!("kill -0 {server} 2> /dev/null || echo gone")
        )
        .await,
        "gone\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_program_can_be_attached_again() {
    let sandbox = sandbox(512).await;
    let code = "for n in 1 2 3; do echo $n; read -r x; done; echo end; exit 4";
    let request = script(code).stdin().idempotency_key("k");
    let mut run = sandbox.spawn(&request).unwrap();
    let program = read_pid(&mut run).await;
    assert_eq!(next_stdout(&mut run).await, "1\n");
    assert!(run.detach().await.unwrap().is_none());
    let list = sandbox.processes().await.unwrap();
    assert_eq!((list[0].pid, list[0].attached), (program, false));

    // From the beginning.
    let mut run = sandbox.attach("k", 0).unwrap();
    assert_eq!(run.next().await, Some(Event::Attached { from_seq: 0 }));
    assert_eq!(next_stdout(&mut run).await, "1\n");
    run.input().write("\n").await.unwrap();
    assert_eq!(next_stdout(&mut run).await, "2\n");

    // Another client takes it over, from the second piece on.
    let mut other = sandbox.attach("k", 1).unwrap();
    assert_eq!(other.next().await, Some(Event::Attached { from_seq: 1 }));
    assert_eq!(next_stdout(&mut other).await, "2\n");
    let error = collect(run).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Lost, Retry::Unknown),
        "{error}"
    );
    other.input().write("\n\n").await.unwrap();
    other.input().close().await;
    let transcript = finish_run(other).await;
    assert_eq!(
        (transcript.out(), transcript.end()),
        ("3\nend\n", (EndedBy::Exited, Some(4)))
    );

    // After its end, as often as you like, as an attachment or as the same request.
    for run in [
        sandbox.attach("k", 0).unwrap(),
        sandbox.spawn(&request).unwrap(),
    ] {
        let transcript = finish_run(run).await;
        assert_eq!(
            (transcript.out(), transcript.end()),
            ("1\n2\n3\nend\n", (EndedBy::Exited, Some(4)))
        );
    }

    let transcript = finish_run(sandbox.attach("k", 2).unwrap()).await;
    assert!(
        transcript.out().ends_with("end\n") && transcript.stdout.len() < 8,
        "{:?}",
        transcript.out()
    );

    let over = sandbox.spawn(&request).unwrap().detach().await.unwrap();
    assert_eq!(over.unwrap().exit_code, Some(4));
    for (run, part) in [
        (sandbox.attach("none", 0), "`none`"),
        (sandbox.attach("k", 99), "from_seq"),
    ] {
        let error = collect(run.unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(part), "{error}");
    }

    // A program without a key cannot be attached again, so it cannot be detached.
    let mut run = sandbox.spawn(&script("echo up; exec sleep 100")).unwrap();
    next_stdout(&mut run).await;
    assert_eq!(run.detach().await.unwrap_err().kind(), ErrorKind::Invalid);

    // Much is written without a client: the end of it is kept, and the program does not wait.
    let code = "head -c 20000000 /dev/zero | tr '\\0' x; echo last";
    let run = sandbox
        .spawn(&script(code).idempotency_key("much"))
        .unwrap();
    run.detach().await.unwrap();
    wait_for_list(&sandbox, "it ends unheard", |list| {
        list.iter().all(|one| one.idempotency_key.is_none())
    })
    .await;

    let mut run = sandbox.attach("much", 0).unwrap();
    let from = run.next().await;
    assert!(
        matches!(from, Some(Event::Attached { from_seq: 1.. })),
        "{from:?}"
    );

    let transcript = collect(run).await.unwrap();
    assert!(transcript.out().ends_with("xlast\n") && transcript.stdout.len() <= 1 << 20);
    assert_eq!(transcript.end(), (EndedBy::Exited, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_programs_need_permission() {
    let refusing = sandbox(512).await;
    let id = SpawnRequest::new(["id", "-u"]).root();
    let error = collect(refusing.spawn(&id).unwrap()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Invalid, Retry::Never),
        "{error}"
    );
    assert_eq!(
        run_program(&refusing, &SpawnRequest::new(["id", "-u"]))
            .await
            .out(),
        "1000\n"
    );
    assert_ne!(
        shell_ok(
            &refusing,
            "sudo -n id -u 2> /dev/null || su -c 'id -u' < /dev/null 2> /dev/null || echo no"
        )
        .await,
        "0\n"
    );

    let allowing = engine().sandbox().allow_root().await.unwrap();
    let code =
        "id -u; touch /root/x && echo made; echo mine > /proc/sys/kernel/hostname && echo named";
    let transcript = run_program(&allowing, &script(code).root()).await;
    assert_eq!(transcript.out(), "0\nmade\nnamed\n", "{}", transcript.err());

    // Other programs are not affected.
    assert_eq!(
        shell_ok(&allowing, "id -u; cat /root/x 2> /dev/null || echo closed").await,
        "1000\nclosed\n"
    );

    // A checkpoint changes nothing for it.
    let _child = allowing.fork(1).await.unwrap();
    assert_eq!(run_program(&allowing, &id).await.out(), "0\n");
}
