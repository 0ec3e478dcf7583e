//! The standard streams of programs: as files in `/dev`, and in the order in which they were written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::{collect, engine, finish_run, sandbox, shell_ok, within_deadline};
use fumehood_engine::{EndedBy, Event, Language, Run, RunRequest, Sandbox, SpawnRequest};

/// Opens each of the devices.
const SHELL: &str =
    "echo error > /dev/stderr; cat /dev/stdin > /dev/stdout; echo more >> /dev/fd/1";
const PYTHON: &str = "import shutil
print('error', file=open('/dev/stderr', 'w'))
with open('/dev/stdin') as source, open('/dev/stdout', 'w') as target: shutil.copyfileobj(source, target)
print('more', file=open('/dev/fd/1', 'a'))";
const JAVASCRIPT: &str = "const fs = require('fs');
fs.writeFileSync('/dev/stderr', 'error\\n');
fs.writeFileSync('/dev/stdout', fs.readFileSync('/dev/stdin'));
fs.appendFileSync('/dev/fd/1', 'more\\n');";

async fn opens_all(run: Run, what: &str) {
    let mut input = run.input();
    let feed = async {
        input.write(b"typed\n".to_vec()).await.unwrap();
        input.close().await;
    };
    let (transcript, ()) = tokio::join!(finish_run(run), feed);
    assert_eq!(
        (transcript.out(), transcript.err().as_str()),
        ("typed\nmore\n", "error\n"),
        "{what}: {transcript:?}"
    );
}

async fn check_devices(sandbox: &Sandbox) {
    for (language, code) in [
        (Language::Shell, SHELL),
        (Language::Python, PYTHON),
        (Language::Javascript, JAVASCRIPT),
    ] {
        let request = RunRequest::new(language, code).stdin().timeout_s(60);
        let what = format!("{language:?} once");
        opens_all(sandbox.run(&request).unwrap(), &what).await;

        let context = sandbox.context(format!("c-{}", language.as_str()), language);
        let request = context.request(code).stdin().timeout_s(60);
        let what = format!("{language:?} in a context");
        opens_all(context.start(&request).unwrap(), &what).await;
    }

    let program = SpawnRequest::new(["bash", "-c", SHELL]).stdin();
    opens_all(sandbox.spawn(&program).unwrap(), "a spawned program").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_can_be_opened_in_every_program_and_copy() {
    let parent = sandbox(512).await;
    check_devices(&parent).await;
    let child = parent.fork(1).await.unwrap().remove(0);
    check_devices(&child).await;
}

/// Returns the events of a run as one text: output as it is, errors in parentheses, values in brackets.
async fn in_order(mut run: Run) -> String {
    let mut pieces: Vec<(char, String)> = Vec::new();
    let all = async {
        while let Some(event) = run.next().await {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', " ");
            let (kind, text) = match event {
                Event::Stdout(bytes) => ('o', shown(&bytes)),
                Event::Stderr(bytes) => ('e', shown(&bytes)),
                Event::Result(value) => ('r', value.text().unwrap()),
                _ => continue,
            };

            // How a stream is cut into pieces depends on time.
            match pieces.last_mut() {
                Some((last, earlier)) if *last == kind => *earlier += &text,
                _ => pieces.push((kind, text)),
            }
        }
        run.outcome().await
    };
    within_deadline("an outcome", all).await.unwrap();

    let pieces = pieces.iter().map(|(kind, text)| match kind {
        'e' => format!("({})", text.trim_end()),
        'r' => format!("[{text}]"),
        _ => text.clone(),
    });
    pieces.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_and_values_arrive_in_the_order_of_the_program() {
    let sandbox = sandbox(512).await;
    let shell = "for i in 1 2 3 4; do echo out $i; echo err $i >&2; done; echo end";
    let request = RunRequest::new(Language::Shell, shell);
    let expected = "out 1 (err 1)out 2 (err 2)out 3 (err 3)out 4 (err 4)end ";
    assert_eq!(in_order(sandbox.run(&request).unwrap()).await, expected);
    let program = SpawnRequest::new(["bash", "-c", shell]);
    assert_eq!(in_order(sandbox.spawn(&program).unwrap()).await, expected);

    let python =
        "import sys\nprint('one'); print('two'); print('no', file=sys.stderr); print('three'); 7";
    let javascript =
        "console.log('one'); console.log('two'); console.error('no'); console.log('three'); 7";
    for (language, code) in [
        (Language::Python, python),
        (Language::Javascript, javascript),
    ] {
        let request = RunRequest::new(language, code).display();
        let text = in_order(sandbox.run(&request).unwrap()).await;
        assert_eq!(text, "one two (no)three [7]", "{language:?}");

        let context = sandbox.context(format!("o-{}", language.as_str()), language);
        let request = context.request(code).display();
        let text = in_order(context.start(&request).unwrap()).await;
        assert_eq!(text, "one two (no)three [7]", "{language:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_holds_much_and_its_end_is_explained() {
    let sandbox = sandbox(512).await;
    let code = |mib: u32| {
        format!(
            "import mmap, os\nfd = os.open('/dev/shm/x', os.O_RDWR | os.O_CREAT)\nos.ftruncate(fd, {mib} << 20)\n\
             m = mmap.mmap(fd, {mib} << 20)\nfor at in range(0, {mib} << 20, 4096): m[at] = 1\nprint('ok')"
        )
    };
    let run = |mib| sandbox.run(&RunRequest::new(Language::Python, code(mib)).timeout_s(60));

    assert_eq!(finish_run(run(105).unwrap()).await.out(), "ok\n");
    let transcript = collect(run(400).unwrap()).await.unwrap();
    assert_eq!(transcript.end(), (EndedBy::Signaled, Some(135)));
    assert!(
        transcript.detail().contains("/dev/shm is full"),
        "{transcript:?}"
    );

    sandbox.files().remove("/dev/shm/x").await.unwrap();
    assert_eq!(
        shell_ok(&sandbox, "ls -A /sys/class/power_supply").await,
        ""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_inodes_says_so() {
    let sandbox = sandbox(128).await;
    let fill = "i=0; while : > /tmp/f$i; do i=$((i + 1)); done 2> /dev/null; echo full";
    let request = RunRequest::new(Language::Shell, fill).timeout_s(120);
    assert_eq!(
        finish_run(sandbox.run(&request).unwrap()).await.out(),
        "full\n"
    );

    // The script's own file was the last one.
    sandbox.files().write("last", "x").await.unwrap();
    let error = sandbox.files().write("new", "x").await.unwrap_err();
    assert!(error.to_string().contains("inode"), "{error}");
    // A script still runs, without a file.
    assert_eq!(shell_ok(&sandbox, "rm -r /tmp/f*; echo $#").await, "0\n");
    sandbox.files().write("new", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_of_a_restored_guest_agree() {
    let code = "now=$(date +%s); [[ $SECONDS -le 1 ]] && echo seconds
((EPOCHSECONDS - now <= 1)) && echo epoch
: > f; (($(stat -c %Y f) - now <= 1)) && echo file
read -r up _ < /proc/uptime; boot=$(sed -n 's/btime //p' /proc/stat)
((now - boot - ${up%.*} <= 2 && now - boot - ${up%.*} >= -2)) && echo boot";
    let run = engine()
        .run(RunRequest::new(Language::Shell, code))
        .unwrap();
    let transcript = finish_run(run).await;
    assert_eq!(transcript.out(), "seconds\nepoch\nfile\nboot\n");
}
