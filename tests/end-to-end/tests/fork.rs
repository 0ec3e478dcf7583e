//! Checkpoints and forks of live sandboxes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use fumehood_end_to_end::guest::engine_without_templates;
use fumehood_end_to_end::{engine, request_ok, shell};
use fumehood_engine::{ErrorKind, Language, RunRequest, Sandbox, VmOrigin};

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

/// Draws from every generator of bun, and prints a line `NAME VALUE` for each. Usable as a context's code, which may draw
/// again, and as a program.
const BUN_DRAWS: &str = r#"
const draw = globalThis.draw ??= (() => {
  const node = require("node:crypto"), net = require("node:net"), tls = require("node:tls"), fs = require("node:fs");
  const hex = (bytes) => Buffer.from(bytes).toString("hex");
  const hello = () => new Promise((resolve) => {
    const server = net.createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", (data) => { resolve(hex(data.subarray(11, 43))); socket.destroy(); server.close(); });
    });
    server.listen(0, "127.0.0.1", () =>
      tls.connect({ port: server.address().port, host: "127.0.0.1" }).on("error", () => {}));
  });
  const exported = async (algorithm, uses) => {
    const key = await crypto.subtle.generateKey(algorithm, true, uses);
    return key.privateKey ? (await crypto.subtle.exportKey("jwk", key.privateKey)).d
      : hex(await crypto.subtle.exportKey("raw", key));
  };
  const sources = {
    randomUUID: () => crypto.randomUUID(),
    nodeRandomUUID: () => node.randomUUID(),
    randomUUIDv7: () => Bun.randomUUIDv7(),
    smallValues: () => hex(crypto.getRandomValues(new Uint8Array(8))),
    largeValues: () => hex(crypto.getRandomValues(new Uint8Array(4096)).subarray(0, 16)),
    smallBytes: () => hex(node.randomBytes(8)),
    largeBytes: () => hex(node.randomBytes(4096).subarray(0, 16)),
    asyncBytes: () => new Promise((resolve) => node.randomBytes(16, (_, bytes) => resolve(hex(bytes)))),
    randomInt: () => String(node.randomInt(2 ** 47)) + node.randomInt(2 ** 47),
    edKey: () => hex(node.generateKeyPairSync("ed25519").publicKey.export({ type: "spki", format: "der" })),
    aesKey: () => exported({ name: "AES-GCM", length: 256 }, ["encrypt"]),
    hmacKey: () => exported({ name: "HMAC", hash: "SHA-256" }, ["sign"]),
    ecKey: () => exported({ name: "ECDSA", namedCurve: "P-256" }, ["sign"]),
    salt: () => Bun.password.hash("x", { algorithm: "bcrypt", cost: 4 }),
    mathRandom: () => String(Math.random()),
    directory: () => fs.mkdtempSync("/tmp/d-"),
    clientHello: hello,
  };
  return async () => {
    for (const [name, source] of Object.entries(sources)) console.log(name, await source());
  };
})();
"#;

/// As [`BUN_DRAWS`], for Python.
const PYTHON_DRAWS: &str = r"
def draw():
    import os, random, secrets, socket, ssl, tempfile, threading, uuid
    listener = socket.create_server(('127.0.0.1', 0))
    hello = []
    def serve():
        line = listener.accept()[0]
        hello.append(line.recv(4096)[11:43].hex())
        line.close()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        context = ssl.create_default_context()
        context.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname='localhost')
    except OSError:
        pass
    thread.join()
    print('clientHello', hello[0])
    print('random', random.random(), random.getrandbits(64))
    print('urandom', os.urandom(16).hex())
    print('secrets', secrets.token_hex(16))
    print('ssl', ssl.RAND_bytes(16).hex())
    print('uuid1', uuid.uuid1())
    print('uuid4', uuid.uuid4())
    print('tempfile', next(tempfile._get_candidate_names()))
    print('cryptography', *SEEDS, len(SEEDS))

# Stands for the package `cryptography`, which contains its own OpenSSL, and is not in the image.
import sys, types
SEEDS = []
_rust = types.ModuleType('cryptography.hazmat.bindings._rust')
_rust._openssl = types.SimpleNamespace(
    lib=types.SimpleNamespace(RAND_add=lambda seed, size, bits: SEEDS.append(seed.hex())))
sys.modules[_rust.__name__] = _rust
draw()
";

/// Parses lines `NAME VALUE`.
fn named_values(lines: &str) -> impl Iterator<Item = (String, String)> {
    lines.lines().map(|line| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.to_owned())
    })
}

/// Draws from everything in a sandbox that [`start_drawing`] has prepared.
async fn draw(sandbox: &Sandbox) -> Vec<(String, String)> {
    let javascript = RunRequest::new(Language::Javascript, "await draw()").context("bun");
    let bash = "echo RANDOM $RANDOM$RANDOM$RANDOM; echo SRANDOM $SRANDOM; echo mktemp $(mktemp -u)";
    let bash = RunRequest::new(Language::Shell, bash).context("bash");
    let left = shell(
        "for program in bun python; do echo > $program.go; sed s/^/$program-/ $program.out; done",
    );

    let mut values = Vec::new();
    for (name, request) in [
        ("bun", javascript),
        ("python", python("draw()")),
        ("bash", bash),
        ("left", left),
    ] {
        let said = request_ok(sandbox, request).await;
        values
            .extend(named_values(&said).map(|(source, value)| (format!("{name} {source}"), value)));
    }

    values
}

/// Draws from every generator in contexts, and leaves programs running that have drawn and do so again when they are told
/// to: by a line in a pipe, to which they write to another.
async fn start_drawing(sandbox: &Sandbox) {
    let code = format!("{BUN_DRAWS}\nawait draw()");
    let javascript = RunRequest::new(Language::Javascript, &code).context("bun");
    request_ok(sandbox, javascript).await;
    request_ok(sandbox, python(PYTHON_DRAWS)).await;

    let left = format!(
        "mkfifo bun.go bun.out python.go python.out
cat > left.js <<'END'
{BUN_DRAWS}
const log = console.log, lines = [];
console.log = (...words) => lines.push(words.join(' '));
await draw();
for (;;) {{
  lines.length = 0;
  require('fs').readFileSync('bun.go');
  await draw();
  require('fs').writeFileSync('bun.out', lines.join('\\n') + '\\n');
}}
END
cat > left.py <<'END'
import os, random
def draw():
    return f'urandom {{os.urandom(16).hex()}}\\n'
draw()
while True:
    open('python.go').read()
    lines = draw()
    open('python.out', 'w').write(lines)
END
bun left.js > /dev/null & python3 left.py > /dev/null &
for program in bun python; do echo > $program.go; cat $program.out > /dev/null; done"
    );
    request_ok(
        sandbox,
        RunRequest::new(Language::Shell, &left).context("bash"),
    )
    .await;
}

/// What copies of a bun that was left running share, as docs/reference/protocol.md says: `Math.random`, and up to 2 KiB
/// that bun had drawn ahead for small requests.
const SHARED_IF_LEFT: [&str; 6] = [
    "left bun-randomUUID",
    "left bun-nodeRandomUUID",
    "left bun-randomUUIDv7",
    "left bun-smallValues",
    "left bun-randomInt",
    "left bun-mathRandom",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_share_no_random_value() {
    let engine = engine();
    let parent = engine.sandbox().memory_mib(1024).await.unwrap();
    start_drawing(&parent).await;

    let checkpoint = parent.checkpoint().await.unwrap();
    let mut copies = parent.fork(2).await.unwrap();
    copies.push(engine.open(&checkpoint).await.unwrap());
    copies.push(engine.open(&checkpoint).await.unwrap());
    copies.push(parent);

    // What the agent cannot reseed is listed; the contexts, which it can, are not.
    let left = checkpoint.running_programs();
    let mut names: Vec<_> = left.listed.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!((names, left.count), (vec!["bun", "python3"], 2));
    for copy in &copies[..4] {
        assert_eq!(copy.inherited_programs(), Some(left));
    }

    let mut drawn: HashMap<(String, String), usize> = HashMap::new();
    let mut shared = Vec::new();
    for (n, copy) in copies.iter().enumerate() {
        let drawn_here = draw(copy).await;
        assert!(drawn_here.len() > 40, "{drawn_here:?}");
        for value in drawn_here {
            if SHARED_IF_LEFT.contains(&value.0.as_str()) {
                continue;
            }
            if let Some(other) = drawn.insert(value.clone(), n) {
                shared.push(format!("copies {other} and {n}: {value:?}"));
            }
        }
    }

    assert!(shared.is_empty(), "{shared:#?}");
}
