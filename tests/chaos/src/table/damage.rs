//! Flipped bytes and truncated files: in the image, templates, layers and the state.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::small_runs::{PACKAGE, RUN};
use crate::fault::{Fault, Promise, Scene};
use crate::places::files_below;
use crate::random::Random;
use crate::work::Ended;
use crate::world::{Server, tail};

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::scene("damaged-image", image)
            .promise(Promise::exits(&[125]).causes(&["damaged", "missing"]))
            .within(20),
        Fault::scene("damaged-template", template)
            .promise(Promise::exits(&[0]).says("well"))
            .within(40)
            .slow(),
        Fault::scene("damaged-layer", layer)
            .promise(Promise::exits(&[0]).says("well"))
            .within(60)
            .slow(),
        Fault::scene("damaged-state", state).within(30),
        Fault::scene("removed-templates", |s| removed(s, "templates"))
            .promise(Promise::statuses(&[200]).causes(&["exited"]))
            .within(40),
        Fault::scene("removed-image", |s| removed(s, "images"))
            .promise(Promise::statuses(&[200, 503]).causes(&["exited", "missing", "damaged"]))
            .within(40),
    ]
}

/// Changes a file: flips a bit, cuts it, or empties it.
fn damage(path: &Path, random: &mut Random) -> anyhow::Result<String> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    ensure!(length > 0, "{} is empty", path.display());

    let at = random.below(length);
    let how = match random.below(3) {
        0 => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at)?;
            format!("a flipped bit at {at}")
        }
        1 => {
            file.set_len(at)?;
            format!("cut at {at} of {length}")
        }
        _ => {
            file.set_len(0)?;
            "emptied".to_owned()
        }
    };
    Ok(format!("{} of {length} bytes, {how}", path.display()))
}

/// Returns one of the files of these names below a directory.
fn pick(directory: &Path, names: &[&str], random: &mut Random) -> anyhow::Result<PathBuf> {
    let mut all = files_below(directory);
    all.retain(|path| names.iter().any(|name| path.ends_with(name)));
    all.retain(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0));
    ensure!(!all.is_empty(), "no file below {}", directory.display());
    Ok(random.pick(&all).clone())
}

fn image(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let images = own.own_store(&["images"], &[])?.join("images");
    let default = fs::canonicalize(images.join("default"))?;
    let path = pick(
        &default,
        &["rootfs.erofs", "vmlinux", "initrd.cpio"],
        &mut s.random,
    )?;
    let how = damage(&path, &mut s.random)?;

    let mut ended = s.run(&own.world, &RUN)?;
    ended.text += &how;
    Ok(ended)
}

/// Damages a file of every template. The run starts without them.
fn template(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let store = own.own_store(&["templates"], &[])?;
    let mut how = Vec::new();
    for entry in fs::read_dir(store.join("templates"))?.flatten() {
        if entry.file_type()?.is_dir() {
            let names = ["ram", "state", "manifest.json", "identity.json"];
            if let Ok(path) = pick(&entry.path(), &names, &mut s.random) {
                how.push(damage(&path, &mut s.random)?);
            }
        }
    }

    let mut ended = s.run(&own.world, &RUN)?;
    ended.text += &how.join("\n");
    Ok(ended)
}

/// Damages the layer of a package. It is installed again.
fn layer(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let first = s.run(s.world, &PACKAGE)?;
    ensure!(
        first.exit == Some(0),
        "the package cannot be installed: {first:?}"
    );

    let mut own = s.own_world()?;
    let layers = own.own_store(&["layers"], &[])?.join("layers");
    let mut all = files_below(&layers);
    all.retain(|path| path.extension().is_none_or(|end| end != "lock"));
    all.retain(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0));
    let path = s.random.pick(&all).clone();
    let how = damage(&path, &mut s.random)?;

    let mut ended = s.run(&own.world, &PACKAGE)?;
    ended.text += &how;
    Ok(ended)
}

/// Damages the state of a server that was killed. The next one starts, or says what is wrong.
fn state(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let own = s.own_world()?;
    let mut server = Server::start(&own.world, &[])?;
    let body = json!({"language": "shell", "code": "echo well"});
    own.world.expect("POST", "/v1/runs", &body, 200)?;
    server.end(&own.world, Signal::KILL)?;

    let names = ["server.sqlite", "server.sqlite-wal"];
    let path = pick(&own.world.places.state, &names, &mut s.random)?;
    let how = damage(&path, &mut s.random)?;

    let log = &own.world.places.log;
    match Server::start(&own.world, &[]) {
        Ok(mut server) => {
            let runs = own.world.request("GET", "/v1/runs", &Value::Null)?;
            ensure!(matches!(runs.status, 200 | 500), "{how}: {runs:?}");
            own.world.request("POST", "/v1/runs", &body)?;
            let ended = server.end(&own.world, Signal::TERM);
            ended.with_context(|| how.clone())?;
        }
        Err(_) => {
            let said = tail(log);
            ensure!(
                said.contains("server.sqlite"),
                "{how}: the state is not named: {said}"
            );
        }
    }

    let said = tail(log);
    ensure!(!said.contains("panicked"), "{how}: {said}");
    Ok(Ended::default())
}

/// Removes a part of the store under a running server.
fn removed(s: &mut Scene<'_>, part: &str) -> anyhow::Result<Ended> {
    let mut own = s.own_world()?;
    let store = own.own_store(&[part], &[])?;
    let mut server = Server::start(&own.world, &[])?;
    let body = json!({"language": "shell", "code": "echo well"});
    own.world.expect("POST", "/v1/runs", &body, 200)?;

    fs::remove_dir_all(store.join(part))?;
    let answer = own.world.request("POST", "/v1/runs", &body);
    server.end(&own.world, Signal::TERM)?;
    Ended::of_request(answer)
}
