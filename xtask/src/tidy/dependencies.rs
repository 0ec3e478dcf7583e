//! Dependencies: which crates of the workspace may use which, and what crates from outside must fulfil.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::shell::cargo;

/// The workspace's crates, each with those of the workspace that it may depend on.
const WORKSPACE: &[(&str, &[&str])] = &[
    ("fumehood-protocol", &[]),
    ("fumehood-sys", &[]),
    ("fumehood-launcher", &["fumehood-sys"]),
    ("fumehood-qemu", &["fumehood-launcher", "fumehood-sys"]),
    ("fumehood-image", &[]),
    ("fumehood-gateway", &[]),
    (
        "fumehood-engine",
        &[
            "fumehood-gateway",
            "fumehood-image",
            "fumehood-protocol",
            "fumehood-qemu",
            "fumehood-sys",
        ],
    ),
    (
        "fumehood-guest-agent",
        &["fumehood-protocol", "fumehood-sys"],
    ),
    ("fumehood-server", &["fumehood-engine"]),
    ("fumehood-conformance", &[]),
    (
        "fumehood-cli",
        &["fumehood-conformance", "fumehood-engine", "fumehood-server"],
    ),
    ("fumehood-chaos", &["fumehood-end-to-end"]),
    ("fumehood-docs-examples", &["fumehood-engine"]),
    ("fumehood-end-to-end", &["fumehood-engine", "fumehood-qemu"]),
    ("fumehood-floor-init", &[]),
    ("fumehood-host-probe", &["fumehood-sys"]),
    ("fumehood-guest-load", &[]),
    ("fumehood-guest-probe", &["fumehood-sys"]),
    ("fumehood-fake-agent", &[]),
    ("fumehood-kvm-host", &[]),
    (
        "fumehood-performance",
        &["fumehood-engine", "fumehood-qemu", "fumehood-sys"],
    ),
    ("xtask", &["fumehood-image"]),
];

/// The one platform that fumehood is built for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What `deny.toml` says, as far as it is checked here without an index or a network. `cargo deny check` reads all of it.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    /// SPDX names of licences that a crate from outside may have.
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    /// Crates that may be there in several versions, each with a reason.
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    name: String,
}

/// A crate from outside.
struct External<'a> {
    name: &'a str,
    version: &'a str,
    license: &'a str,
    rust_version: Option<&'a str>,
}

/// What is wrong with the dependencies.
///
/// # Errors
/// Fails if cargo or `deny.toml` cannot be read.
pub(super) fn faults() -> anyhow::Result<Vec<String>> {
    let metadata = metadata()?;
    let deny: Deny = toml::from_str(&fs::read_to_string("deny.toml")?).context("deny.toml")?;
    let msrv = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "xtask")
        .and_then(|package| package["rust_version"].as_str())
        .context("the workspace has no rust-version")?;
    let externals = externals(&metadata)?;

    let mut faults = between_workspace_crates(&metadata);
    faults.extend(licenses(&externals, &deny.licenses.allow)?);
    faults.extend(duplicates(&externals, &deny.bans.skip));
    faults.extend(too_new(&externals, msrv));

    Ok(faults)
}

fn metadata() -> anyhow::Result<Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", PLATFORM])
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("cargo metadata failed: {reason}");
    }

    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// Dependencies between crates of the workspace that [`WORKSPACE`] does not allow.
fn between_workspace_crates(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = WORKSPACE.iter().copied().collect();
    let mut faults = Vec::new();

    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if !package["source"].is_null() {
            continue;
        }

        let Some(allowed) = allowed.get(name) else {
            faults.push(format!(
                "crate {name} is missing in WORKSPACE of xtask/src/tidy/dependencies.rs; add it with the crates that it may depend on"
            ));
            continue;
        };

        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies
            .filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_string())
            .filter_map(|dependency| dependency["name"].as_str());
        for dependency in ours.filter(|dependency| !allowed.contains(dependency)) {
            faults.push(format!(
                "crate {name} may not depend on {dependency}: see WORKSPACE in xtask/src/tidy/dependencies.rs"
            ));
        }
    }

    faults
}

/// The crates from outside that are built on [`PLATFORM`].
fn externals(metadata: &Value) -> anyhow::Result<Vec<External<'_>>> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let built: BTreeSet<&str> = nodes
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let mut externals = Vec::new();

    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_built = package["id"].as_str().is_some_and(|id| built.contains(id));
        if package["source"].is_null() || !is_built {
            continue;
        }

        let field = |name: &str| package[name].as_str();
        externals.push(External {
            name: field("name").context("a crate without a name")?,
            version: field("version").context("a crate without a version")?,
            license: field("license").unwrap_or_default(),
            rust_version: field("rust_version"),
        });
    }

    Ok(externals)
}

/// Crates whose licence is none of those allowed.
fn licenses(externals: &[External<'_>], allow: &[String]) -> anyhow::Result<Vec<String>> {
    let allowed = allow
        .iter()
        .map(|name| Expression::parse_mode(name, ParseMode::LAX))
        .collect::<Result<Vec<_>, _>>()
        .context("deny.toml has an unknown licence")?;
    let allowed: Vec<LicenseReq> = allowed
        .iter()
        .flat_map(|expression| expression.requirements().map(|found| found.req.clone()))
        .collect();
    let mut faults = Vec::new();

    for External {
        name,
        version,
        license,
        ..
    } in externals
    {
        let is_allowed = Expression::parse_mode(license, ParseMode::LAX)
            .is_ok_and(|expression| expression.evaluate(|needed| allowed.contains(needed)));
        if !is_allowed {
            faults.push(format!(
                "{name} {version} has the licence {license:?}, which deny.toml does not allow"
            ));
        }
    }

    Ok(faults)
}

/// Crates that are there in several versions without a reason in `deny.toml`, and reasons that nothing needs any more.
fn duplicates(externals: &[External<'_>], skip: &[Skip]) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for external in externals {
        versions
            .entry(external.name)
            .or_default()
            .insert(external.version);
    }
    versions.retain(|_, versions| versions.len() > 1);

    let skipped: BTreeSet<&str> = skip.iter().map(|skip| skip.name.as_str()).collect();
    let mut faults = Vec::new();

    for (name, versions) in versions.iter().filter(|(name, _)| !skipped.contains(*name)) {
        let versions: Vec<_> = versions.iter().copied().collect();
        faults.push(format!(
            "{name} is built in versions {}; use one, or give a reason under `bans.skip` in deny.toml",
            versions.join(" and ")
        ));
    }
    for name in skipped.iter().filter(|name| !versions.contains_key(*name)) {
        faults.push(format!(
            "deny.toml skips {name}, which is there in one version; remove the entry"
        ));
    }

    faults
}

/// Crates that need a newer Rust than the workspace promises to build with.
fn too_new(externals: &[External<'_>], msrv: &str) -> Vec<String> {
    // `1.91` is `1.91.0`.
    let numbers = |version: &str| -> [u32; 3] {
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        std::array::from_fn(|_| numbers.next().unwrap_or(0))
    };

    externals
        .iter()
        .filter_map(|external| {
            let needed = external.rust_version?;
            (numbers(needed) > numbers(msrv)).then(|| {
                format!(
                    "{} {} needs Rust {needed}; the workspace promises {msrv} (`rust-version` in Cargo.toml)",
                    external.name, external.version
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external<'a>(name: &'a str, version: &'a str, license: &'a str) -> External<'a> {
        External {
            name,
            version,
            license,
            rust_version: Some("1.91"),
        }
    }

    #[test]
    fn a_license_must_be_allowed_in_one_of_its_alternatives() {
        let allow = ["MIT", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        let faults = |license| {
            licenses(&[external("x", "1.0.0", license)], &allow)
                .unwrap()
                .len()
        };

        for allowed in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(faults(allowed), 0, "{allowed}");
        }
        for refused in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0",
            "",
            "no licence at all",
        ] {
            assert_eq!(faults(refused), 1, "{refused}");
        }
    }

    #[test]
    fn a_crate_in_two_versions_needs_a_reason_and_a_reason_needs_such_a_crate() {
        let twice = [external("x", "1.0.0", "MIT"), external("x", "2.0.0", "MIT")];
        let skip = || [Skip { name: "x".into() }];

        assert_eq!(duplicates(&twice, &[]).len(), 1);
        assert!(duplicates(&twice, &skip()).is_empty());
        assert_eq!(duplicates(&twice[..1], &skip()).len(), 1);
    }

    #[test]
    fn a_crate_may_need_the_promised_rust_and_no_newer_one() {
        let one = [external("x", "1.0.0", "MIT")];

        assert!(too_new(&one, "1.91").is_empty());
        assert!(too_new(&one, "1.91.0").is_empty());
        assert!(too_new(&one, "1.100").is_empty());
        assert_eq!(too_new(&one, "1.90").len(), 1);
    }
}
