//! Disks that are full: of the store, the state, the log, temporary files.

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::small_runs::{PACKAGE, RUN};
use crate::fault::{Fault, OwnWorld, Promise, Scene};
use crate::places::{Place, SmallDisk};
use crate::work::Ended;
use crate::world::{Server, World};

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::scene("full-temporary", temporary)
            .promise(Promise::exits(&[0, 125]))
            .within(20),
        Fault::scene("full-store", store)
            .promise(Promise::exits(&[0]).says("well"))
            .within(40),
        Fault::scene("full-store-of-layers", layers)
            .promise(Promise::exits(&[125]).causes(&["host"]))
            .within(60)
            .slow(),
        Fault::scene("full-download", download)
            .promise(Promise::exits(&[125]))
            .within(20),
        Fault::scene("full-state", |s| server_with_full(s, Place::State))
            .promise(Promise::statuses(&[200]).causes(&["exited"]))
            .within(40),
        Fault::scene("full-log", |s| server_with_full(s, Place::Log))
            .promise(Promise::statuses(&[200]).causes(&["exited"]))
            .within(40),
    ]
}

/// A run with files on both sides, while the directory for temporary files is full.
fn temporary(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let disk = SmallDisk::mount(&own.world.places.temporary, 256)?;
    disk.fill()?;
    let file = own.world.places.root.join("file");
    std::fs::write(&file, "well")?;

    let upload = format!("{}:file", file.display());
    let args = [
        "run", "--json", "-l", "shell", "--upload", &upload, "-c", "cat file",
    ];
    s.run(&own.world, &args)
}

/// A store with an image and no space for anything else.
fn small_store(own: &mut OwnWorld, kib: u64) -> anyhow::Result<SmallDisk> {
    let from = own.world.places.store.clone();
    let store = own.world.places.root.join("data/fumehood");
    let disk = SmallDisk::mount(&store, kib)?;
    std::os::unix::fs::symlink(from.join("images"), store.join("images"))?;
    own.world.places.store = store;
    Ok(disk)
}

/// Without a template and without space for one, a run boots.
fn store(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let disk = small_store(&mut own, 1024)?;
    disk.fill()?;
    s.run(&own.world, &RUN)
}

/// A layer does not fit; with space it does.
fn layers(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let disk = small_store(&mut own, 8 << 10)?;
    disk.fill()?;
    let ended = s.run(&own.world, &PACKAGE)?;

    disk.free();
    let again = s.run(&own.world, &PACKAGE)?;
    ensure!(again.exit == Some(0), "with space again: {again:?}");
    Ok(ended)
}

/// A download fills the disk.
fn download(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let target = own.world.places.root.join("target");
    let _disk = SmallDisk::mount(&target, 512)?;
    let (file, code) = (
        format!("big:{}", target.join("big").display()),
        "head -c 2000000 /dev/zero > big",
    );
    let ended = s.run(
        &own.world,
        &["run", "-l", "shell", "--download", &file, "-c", code],
    )?;

    let left: Vec<_> = std::fs::read_dir(&target)?.flatten().collect();
    ensure!(left.is_empty(), "a part of the download is left: {left:?}");
    Ok(ended)
}

/// A server whose state or log is on a full disk. With space again, everything works.
fn server_with_full(s: &mut Scene<'_>, place: Place) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let disk = SmallDisk::mount(own.world.places.of(place), 32 << 10)?;
    let mut server = Server::start(&own.world, &[])?;
    run(&own.world).context("before")?;

    disk.fill()?;
    let body = json!({"language": "shell", "code": "echo well"});
    let ended = Ended::of_request(own.world.request("POST", "/v1/runs", &body))?;
    if place == Place::State {
        // Requests that must be recorded are refused, and nothing was done.
        let refused = own.world.request("POST", "/v1/sandboxes", &Value::Null)?;
        ensure!(
            refused.status == 507,
            "a sandbox without a record: {refused:?}"
        );
    }

    disk.free();
    own.world.wait_until("a sandbox with space again", 20, || {
        let made = own.world.request("POST", "/v1/sandboxes", &Value::Null);
        made.is_ok_and(|made| made.status == 201)
    })?;
    run(&own.world).context("with space again")?;
    let code = server.end(&own.world, Signal::TERM)?;
    ensure!(code == Some(0), "the server exits with {code:?}");
    Ok(ended)
}

fn run(world: &World) -> anyhow::Result<()> {
    let body = json!({"language": "shell", "code": "echo well"});
    world.expect("POST", "/v1/runs", &body, 200)?;
    Ok(())
}
