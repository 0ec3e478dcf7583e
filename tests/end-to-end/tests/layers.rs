//! Layers: trees of packages that are mounted over a guest's root file system.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use fumehood_end_to_end::guest::engine_without_templates;
use fumehood_end_to_end::{finish, run_ok};
use fumehood_engine::{Language, Layer};

/// An erofs of `tree`, all of which is the user's.
fn layer_of(tree: &Path, image: &Path) -> Layer {
    let mut command = Command::new("mkfs.erofs");
    command.args(["--force-uid=1000", "--force-gid=1000"]);
    command.arg(image).arg(tree);
    let made = finish(command);
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    Layer::open(image, "of this test").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_of_a_layer_can_be_imported() {
    let engine = engine_without_templates();
    let plain = engine.sandbox().await.unwrap();
    let place = "import site; print(site.getusersitepackages(), end='')";
    let place = run_ok(&plain, Language::Python, place).await;
    plain.end().await;

    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    let python = tree.join(place.trim_start_matches('/'));
    let javascript = tree.join("home/user/node_modules/layered");
    std::fs::create_dir_all(&python).unwrap();
    std::fs::create_dir_all(&javascript).unwrap();
    std::fs::write(python.join("layered.py"), "where = 'of Python'\n").unwrap();
    std::fs::write(
        javascript.join("index.js"),
        "module.exports = 'of JavaScript'\n",
    )
    .unwrap();

    let layer = layer_of(&tree, &work.path().join("layer.erofs"));

    let parent = engine.sandbox().layer(layer).await.unwrap();
    let children = parent.fork(1).await.unwrap();
    for sandbox in [&parent, &children[0]] {
        let python = "import layered; print(layered.where)";
        assert_eq!(
            run_ok(sandbox, Language::Python, python).await,
            "of Python\n"
        );

        let javascript = "console.log(require('layered'))";
        let said = run_ok(sandbox, Language::Javascript, javascript).await;
        assert_eq!(said, "of JavaScript\n");

        // The user may change the directory, and the image's own files are still visible.
        let owns = format!(
            "cd {place} && touch other.py && rm layered.py && ls *.py && stat -c %u . /home/user && ls /usr/bin/bash"
        );

        let said = run_ok(sandbox, Language::Shell, &owns).await;
        assert_eq!(said, "other.py\n1000\n1000\n/usr/bin/bash\n");
    }
}
