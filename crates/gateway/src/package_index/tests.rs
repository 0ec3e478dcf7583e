use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::credential::Login;
use super::ecosystem::Ecosystem;
use super::error::{IndexError, MAX_INDEXES};
use super::index::Index;
use super::tool_environment::{ToolEnvironment, read};

/// A host whose home and `/etc` are below one directory, and whose tools print nothing.
fn host(env: &[(&str, &str)], files: &[(&str, &str)]) -> (TempDir, ToolEnvironment) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();

    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    let env = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));

    let home = Some(root.join("home"));

    (
        directory,
        ToolEnvironment {
            env: env.collect(),
            home,
            root,
            run_tool: |_, _| None,
        },
    )
}

fn hosts(index: &Index) -> Vec<String> {
    index
        .hosts
        .iter()
        .map(|(host, port)| format!("{host}:{port}"))
        .collect()
}

fn of(ecosystem: Ecosystem, env: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<String> {
    let (_directory, environment) = host(env, files);
    hosts(&Index::of(ecosystem, &environment).unwrap())
}

/// A pip with its own default.
fn pip(program: &str, _: &[&str]) -> Option<String> {
    (program == "python3").then(|| "https://index.test/simple\nfiles.test\n".into())
}

#[test]
fn without_configuration_the_tools_report_their_default() {
    let (_directory, mut environment) = host(&[], &[]);
    for ecosystem in [Ecosystem::Python, Ecosystem::JavaScript] {
        let error = Index::of(ecosystem, &environment).unwrap_err();
        assert_eq!(error, IndexError::Unknown { ecosystem });
    }

    environment.run_tool = pip;
    let index = Index::of(Ecosystem::Python, &environment).unwrap();
    assert_eq!(hosts(&index), ["index.test:443", "files.test:443"]);
    environment.run_tool = |program, _| (program == "npm").then(|| "https://npm.test/\n".into());
    let index = Index::of(Ecosystem::JavaScript, &environment).unwrap();
    assert_eq!(hosts(&index), ["npm.test:443"]);
}

#[test]
fn pip_reads_its_files_and_then_the_environment() {
    let etc = (
        "etc/pip.conf",
        "[global]\nindex-url = https://etc.test/simple\n",
    );

    let user = (
        "home/.config/pip/pip.conf",
        "# ours\n[global]\nindex-url: https://user.test:8443/simple\nextra-index-url =\n  https://one.test/simple\n  http://two.test/simple\n",
    );
    assert_eq!(of(Ecosystem::Python, &[], &[etc]), ["etc.test:443"]);
    let both = of(Ecosystem::Python, &[], &[etc, user]);
    assert_eq!(both, ["user.test:8443", "one.test:443", "two.test:80"]);
    let env = [
        ("PIP_INDEX_URL", "https://env.test/simple"),
        ("PIP_EXTRA_INDEX_URL", ""),
    ];
    assert_eq!(of(Ecosystem::Python, &env, &[etc, user])[0], "env.test:443");
    assert_eq!(
        of(
            Ecosystem::Python,
            &[("PIP_CONFIG_FILE", "/dev/null"), env[0]],
            &[etc, user]
        ),
        ["env.test:443"]
    );
}

#[test]
fn uv_reads_its_files_and_then_the_environment() {
    let file = (
        "home/.config/uv/uv.toml",
        "index-url = \"https://main.test/simple\"\nextra-index-url = [\"https://one.test/simple\"]\n\
         [[index]]\nname = \"two\"\nurl = \"https://two.test/simple\"\n[[index]]\nurl = \"./wheels\"\n[pip]\nstrict = true\n",
    );

    assert_eq!(
        of(Ecosystem::Python, &[], &[file]),
        ["main.test:443", "one.test:443", "two.test:443"]
    );

    let env = [
        ("UV_DEFAULT_INDEX", "https://env.test/simple"),
        (
            "UV_INDEX",
            "corp=https://corp.test/simple https://more.test/simple",
        ),
    ];

    assert_eq!(
        of(Ecosystem::Python, &env, &[]),
        ["env.test:443", "corp.test:443", "more.test:443"]
    );
}

#[test]
fn pips_default_is_used_if_only_extra_indexes_are_configured() {
    let (_directory, mut environment) =
        host(&[("PIP_EXTRA_INDEX_URL", "https://extra.test/")], &[]);
    environment.run_tool = pip;
    let index = Index::of(Ecosystem::Python, &environment).unwrap();
    assert_eq!(
        hosts(&index),
        ["index.test:443", "extra.test:443", "files.test:443"]
    );

    // Another index keeps its files on its own host.
    environment
        .env
        .insert("PIP_INDEX_URL".into(), "https://own.test/".into());

    let index = Index::of(Ecosystem::Python, &environment).unwrap();
    assert_eq!(hosts(&index), ["own.test:443", "extra.test:443"]);
}

#[test]
fn npm_and_bun_read_their_files_and_the_environment() {
    let npmrc = (
        "home/.npmrc",
        "; ours\nregistry=https://npm.test/r/\n@corp:registry = https://corp.test/npm/\n\
         //corp.test/npm/:_authToken=${CORP_TOKEN}\nca[]=\"x\"\n",
    );

    assert_eq!(
        of(Ecosystem::JavaScript, &[], &[npmrc]),
        ["npm.test:443", "corp.test:443"]
    );

    let env = [("npm_config_registry", "http://env.test:4873/")];
    assert_eq!(
        of(Ecosystem::JavaScript, &env, &[npmrc]),
        ["env.test:4873", "corp.test:443"]
    );

    let bunfig = (
        "home/.bunfig.toml",
        "[install]\nregistry = { url = \"https://bun.test/\", token = \"s3cret-bun\" }\n[install.scopes]\ncorp = \"https://corp.test/\"\n",
    );

    assert_eq!(
        of(Ecosystem::JavaScript, &[], &[bunfig]),
        ["bun.test:443", "corp.test:443"]
    );

    let (_directory, environment) = host(&[("CORP_TOKEN", "s3cret-corp")], &[npmrc]);
    let index = Index::of(Ecosystem::JavaScript, &environment).unwrap();
    assert!(index.credentials[0].login == Login::Token("s3cret-corp".into()));
    assert_eq!(index.credentials[0].url.as_str(), "https://corp.test/npm/");
}

#[test]
fn credentials_are_separate_and_not_shown() {
    let env = [(
        "PIP_INDEX_URL",
        "https://me%40corp:s3cret%2B1@index.test/simple",
    )];

    let (_directory, environment) = host(&env, &[]);
    let index = Index::of(Ecosystem::Python, &environment).unwrap();
    assert_eq!(index.urls[0].as_str(), "https://index.test/simple");
    let login = Login::Basic {
        user: "me@corp".into(),
        password: "s3cret+1".into(),
    };
    assert!(index.credentials[0].login == login);
    assert!(!format!("{index:?} {environment:?}").contains("s3cret"));
}

#[test]
fn errors_do_not_contain_passwords() {
    let uv = "home/.config/uv/uv.toml";
    for (env, files) in [
        (vec![("PIP_INDEX_URL", "https://me:s3cret@:x/")], vec![]),
        (vec![("PIP_INDEX_URL", "me:s3cret@index.test")], vec![]),
        (
            vec![],
            vec![(uv, "\nindex-url = [\"https://me:s3cret@index.test/\"]")],
        ),
        (
            vec![],
            vec![(
                "home/.config/pip/pip.conf",
                "[global\nindex-url=https://me:s3cret@index.test/",
            )],
        ),
    ] {
        let (_directory, environment) = host(&env, &files);
        let error = Index::of(Ecosystem::Python, &environment).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        let place = files.first().map_or("the environment", |(path, _)| path);
        assert!(error.to_string().contains(place), "{error}");
    }

    let (_directory, environment) = host(&[], &[(uv, "\nindex-url = [1]")]);
    let error = Index::of(Ecosystem::Python, &environment)
        .unwrap_err()
        .to_string();

    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn the_number_of_indexes_and_file_sizes_are_limited() {
    let many = |count: usize| {
        (0..count)
            .map(|n| format!("https://h{n}.test/ "))
            .collect::<String>()
    };

    let of = |count: usize| {
        let extra = many(count - 1);
        let env = [
            ("PIP_INDEX_URL", "https://main.test/"),
            ("PIP_EXTRA_INDEX_URL", extra.as_str()),
        ];

        let (_directory, environment) = host(&env, &[]);
        Index::of(Ecosystem::Python, &environment)
    };
    assert_eq!(of(MAX_INDEXES).unwrap().hosts.len(), MAX_INDEXES);
    assert_eq!(
        of(MAX_INDEXES + 1).unwrap_err(),
        IndexError::TooMany {
            ecosystem: Ecosystem::Python
        }
    );

    let directory = tempfile::tempdir().unwrap();
    let file: &Path = &directory.path().join("long");
    fs::write(file, " ".repeat(1024 * 1024)).unwrap();
    assert!(read(file).unwrap().is_some());
    fs::write(file, " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(read(file).is_err());
}
