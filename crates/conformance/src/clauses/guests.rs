//! Saved and restored guests: `quiesce` and `refresh`.

use serde_json::{Value, json};

use super::lab::{Clause, Lab, shell, succeed};
use crate::client::{Check, ensure, not_offered};

pub(super) const CLAUSES: &[Clause] = &[
    Clause::new(
        "SAVE-1",
        1,
        "outside a guest of fumehood, both are a `request_error`",
        foreign_machine,
    ),
    Clause::new(
        "SAVE-2",
        1,
        "a malformed `refresh` is a `request_error`",
        malformed,
    ),
    Clause::alone(
        "SAVE-3",
        1,
        "`quiesce` is a `busy_error` while an operation runs",
        busy,
    ),
    Clause::alone(
        "SAVE-4",
        1,
        "after `quiesce`, only `hello`, `ping`, `quiesce` and `refresh` are served",
        awaits_refresh,
    ),
    Clause::alone(
        "SAVE-5",
        1,
        "`refresh` gives the guest a new boot id, host name and machine id",
        new_identity,
    ),
];

fn refresh() -> Value {
    json!({"action": "refresh", "wall_clock_us": now_us(), "entropy": "5a".repeat(32), "machine_id": "0123456789abcdef0123456789abcdef", "hostname": "conformance"})
}

fn now_us() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

fn foreign_machine(lab: &Lab<'_>) -> Check {
    if lab.offers("refresh") {
        not_offered!("this is a guest of fumehood");
    }
    let mut client = lab.hello(&[])?;
    client
        .ask(&json!({"action": "quiesce"}))?
        .expect_error("request_error")?;
    client.ask(&refresh())?.expect_error("request_error")?;
    client.ping()
}

fn malformed(lab: &Lab<'_>) -> Check {
    let mut client = lab.hello(&[])?;
    for (name, value) in [
        ("entropy", json!("x")),
        ("machine_id", json!("")),
        ("limits", json!({"nothing": 1})),
        ("limits", json!({"chunk_bytes": 0})),
        ("wall_clock_us", json!("now")),
        ("hostname", json!(5)),
    ] {
        let mut request = refresh();
        request[name] = value;
        let error = client.ask(&request)?.expect_error("request_error")?;
        ensure!(
            error.text("message").contains(name) || !lab.offers("refresh"),
            "the message does not name `{name}`: {}",
            error.show()
        );
    }
    client.ping()
}

fn busy(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["refresh", "cancel", "processes"])?;
    client
        .ask(&json!({"action": "spawn", "argv": ["sleep", "60"], "op_id": 1}))?
        .expect("started")?;
    client
        .ask(&json!({"action": "quiesce"}))?
        .expect_error("busy_error")?;
    client.send(&json!({"action": "cancel", "op_id": 1}))?;
    client.collect(Some(1)).map(drop)
}

fn awaits_refresh(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["refresh"])?;
    client
        .ask(&json!({"action": "quiesce"}))?
        .expect("quiesced")?;
    client.ask(&shell("true"))?.expect_error("refresh_error")?;
    client
        .ask(&json!({"action": "list_processes"}))?
        .expect_error("refresh_error")?;
    client.ping()?;
    client
        .ask(&json!({"action": "quiesce"}))?
        .expect("quiesced")?;

    client.ask(&refresh())?.expect("refreshed")?;
    succeed(client.run(&shell("true"))?).map(drop)
}

fn new_identity(lab: &Lab<'_>) -> Check {
    let mut client = lab.with(&["refresh"])?;
    client
        .ask(&json!({"action": "quiesce"}))?
        .expect("quiesced")?;
    let first = client.ask(&refresh())?.expect("refreshed")?;
    let second = client.ask(&refresh())?.expect("refreshed")?;
    ensure!(
        first.text("boot_id") != second.text("boot_id"),
        "the boot id stayed: {}",
        second.show()
    );

    let code = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname";
    let outcome = succeed(client.run(&shell(code))?)?;
    let expected = format!(
        "{}\n0123456789abcdef0123456789abcdef\nconformance\n",
        second.text("boot_id")
    );
    ensure!(outcome.out() == expected, "{}", outcome.show());
    Ok(())
}
