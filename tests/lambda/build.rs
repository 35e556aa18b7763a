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

/// `sam deploy` asks no question: the template takes what `samconfig.toml` gives, and misses nothing.
#[test]
fn the_shipped_samconfig_gives_the_template_every_parameter_without_a_default() {
    let shipped = shipped_parameters();
    template(&shipped, &str::to_owned, "http://api").expect("a template that is content with samconfig.toml");
    for name in shipped.keys() {
        let mut without = shipped.clone();
        without.remove(name);
        let refused = template(&without, &str::to_owned, "http://api")
            .expect_err("samconfig.toml says what it need not");
        assert!(refused.contains(name), "{refused}");
    }
}

/// A stack on the internet lets nobody in by itself.
#[test]
fn the_shipped_samconfig_keeps_both_doors_closed() {
    let closed = [("Registration", "enrollment"), ("Approval", "operator")];
    assert_eq!(shipped_parameters(), closed.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

fn shipped_parameters() -> BTreeMap<String, String> {
    let samconfig = std::fs::read_to_string(in_package("samconfig.toml")).expect("samconfig.toml");
    let deploy = samconfig.split("[default.deploy.parameters]").nth(1).expect("how to deploy");
    let overrides = deploy.lines().find_map(|line| line.strip_prefix("parameter_overrides = "));
    let overrides = overrides.expect("parameter_overrides").trim_matches('"');
    let pair = |word: &str| {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        (name.to_owned(), value.to_owned())
    };
    overrides.split(' ').map(pair).collect()
}
