//! Packages from the registries that this machine is configured for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::index::isolated_store;
use fumehood_end_to_end::{finish, fumehood};

/// Returns the output of a run with these packages, none of which is installed yet.
fn prints(language: &str, packages: &[&str], code: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = fumehood();
    command
        .args(["run", "-l", language, "-c", code])
        .env("FUMEHOOD_HOME", isolated_store(directory.path()));

    for package in packages {
        command.args(["-p", package]);
    }

    let ended = finish(command);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");

    String::from_utf8(ended.stdout).unwrap()
}

#[test]
fn numpy_pandas_and_requests() {
    let code = "
import numpy, pandas, requests
frame = pandas.DataFrame({'a': numpy.arange(4)})
print(frame.a.sum(), requests.Request('GET', 'http://example.com/').prepare().method)
";
    let packages = ["numpy==2.*", "pandas==2.*", "requests==2.*"];
    assert_eq!(prints("python", &packages, code), "6 GET\n");
}

#[test]
fn lodash_and_zod() {
    let code = "
import _ from 'lodash';
import { z } from 'zod';
console.log(_.chunk([1, 2, 3], 2).length, z.string().parse('text'));
";
    let printed = prints("javascript", &["lodash@^4", "zod@^3"], code);
    assert_eq!(printed, "2 text\n");
}
