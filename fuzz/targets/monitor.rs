//! Plays a QEMU that answers two commands with arbitrary bytes.
#![no_main]

use fumehood_qemu::Qmp;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [size, answers @ ..] = bytes else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(talk(usize::from(*size) + 1, answers.to_vec()));
});

async fn talk(size: usize, answers: Vec<u8>) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return;
    };
    let qemu = tokio::spawn(async move {
        for piece in answers.chunks(size) {
            if theirs.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    });

    let Ok((monitor, mut events)) = Qmp::connect(ours).await else {
        return;
    };
    let answers = tokio::join!(
        monitor.execute("query-status", Value::Null),
        monitor.execute("stop", Value::Null)
    );
    drop(answers);
    while events.try_recv().is_ok() {}
    // The monitor reads nothing more after an invalid message, so QEMU may wait until its connection ends.
    drop(monitor);
    let _ = qemu.await;
}
