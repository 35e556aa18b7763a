//! What is deployed: the binaries' dependencies, and the parameters of the shipped deployment.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::deployment::{binaries, executable, in_package, template};

/// The embedded engine, the web server and everything else of the local system stay out of the functions.
#[test]
fn the_functions_link_neither_the_embedded_engine_nor_a_web_server() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "rollcall-functions",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("text");
    let packages: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains("lambda_http"), "{tree}");
    let stowaways =
        ["dynoxide-rs", "rusqlite", "libsqlite3-sys", "axum", "axum-core", "clap", "local", "saphyr"];
    let found: Vec<_> = stowaways.into_iter().filter(|package| packages.contains(package)).collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn every_function_of_the_template_has_its_executable() {
    for binary in binaries() {
        assert!(executable(&binary).is_file(), "{binary}");
    }
}

/// Neither command asks a question in any environment: the template takes what `samconfig.toml` gives.
#[test]
fn every_environment_of_samconfig_gives_the_template_every_parameter_without_a_default() {
    for (name, environment) in environments() {
        let shipped = parameters(&environment);
        let read = template(&shipped, &str::to_owned, "http://api");
        read.unwrap_or_else(|error| panic!("{name}: {error}"));
        for parameter in ["Registration", "Approval"] {
            let mut without = shipped.clone();
            without.remove(parameter).unwrap_or_else(|| panic!("{name} has no {parameter}"));
            let refused = template(&without, &str::to_owned, "http://api")
                .expect_err("samconfig.toml says what it need not");
            assert!(refused.contains(parameter), "{refused}");
        }
    }
}

/// A stack on the internet lets nobody in by itself, unless its name says so.
#[test]
fn samconfig_opens_a_door_only_in_the_environment_that_is_called_so() {
    let environments = environments();
    let of = |name: &str| parameters(&environments[name]);
    let closed = [("Registration", "enrollment"), ("Approval", "operator")];
    let closed = closed.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(of("default"), closed.clone().into());
    let mut x86: BTreeMap<_, _> = closed.into();
    x86.insert("Architecture".to_owned(), "x86_64".to_owned());
    assert_eq!(of("x86"), x86);
    let open: Vec<_> = environments.keys().filter(|name| of(name)["Registration"] == "open").collect();
    assert_eq!(open, ["open"]);
}

/// What one word chooses is chosen for both commands: an architecture that `sam build` alone was told would put arm64
/// binaries into `x86_64` functions at the next upgrade.
#[test]
fn an_environment_of_samconfig_says_the_same_to_both_commands() {
    for (name, environment) in environments() {
        for (section, lines) in &environment {
            assert_eq!(lines.contains("parameter_overrides"), section == "global", "{name}.{section}");
        }
        assert_eq!(environment["build"], environments()["default"]["build"], "{name}");
        assert_eq!(environment["deploy"], environments()["default"]["deploy"], "{name}");
    }
}

/// `sam delete` empties the stack's prefix of the bucket: another stack's code must not be in it.
#[test]
fn every_stack_of_samconfig_has_a_prefix_of_its_own_in_the_bucket() {
    for (name, environment) in environments() {
        let value = |key: &str| {
            let line = environment["global"].lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.strip_prefix(" = "))
                .unwrap_or_else(|| panic!("{name} has no {key}"))
                .to_owned()
        };
        assert_eq!(value("s3_prefix"), value("stack_name"), "{name}");
    }
}

/// The lines of each section of `samconfig.toml`: by environment, then by command.
fn environments() -> BTreeMap<String, BTreeMap<String, String>> {
    let samconfig = std::fs::read_to_string(in_package("samconfig.toml")).expect("samconfig.toml");
    let mut environments: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = None;
    for line in samconfig.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(".parameters]")) {
            section = name.split_once('.');
        } else if let Some((environment, command)) = section {
            let commands = environments.entry(environment.to_owned()).or_default();
            let lines = commands.entry(command.to_owned()).or_default();
            lines.push_str(line);
            lines.push('\n');
        }
    }
    assert!(environments.len() > 3, "{environments:?}");
    environments
}

fn parameters(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let overrides =
        environment["global"].lines().find_map(|line| line.strip_prefix("parameter_overrides = "));
    let overrides: Vec<String> =
        serde_json::from_str(overrides.expect("overrides")).expect("a list of texts");
    let pair = |word: &String| {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        (name.to_owned(), value.to_owned())
    };
    overrides.iter().map(pair).collect()
}
