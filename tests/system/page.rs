//! The page's files, as HTTP serves them. What the page does in a browser is tested behind the feature `browser`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use reqwest::Method;

use crate::support::{Reply, TestSystem};

/// The path of every file that the function serves, and its name in the repository.
fn served() -> Vec<(String, String)> {
    let mut served = files();
    served.push(("/openapi.json".to_owned(), "openapi.json".to_owned()));
    served
}

/// The same of the page's own.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/page");
    let names =
        fs::read_dir(folder).expect("the page's folder").map(|entry| entry.expect("a file").file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().expect("a plain name")).collect();
    names.retain(|name| name != "openapi.json");
    names.sort();
    let path = |name: &str| if name == "index.html" { "/".to_owned() } else { format!("/page/{name}") };
    names.into_iter().map(|name| (path(&name), name)).collect()
}

fn source(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/page").join(name))
        .expect("a file")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').expect("a kind").1 {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        other => panic!("say here what .{other} is"),
    }
}

#[track_caller]
fn is_guarded(reply: &Reply, path: &str) {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
        require-trusted-types-for 'script'; trusted-types 'none'";
    for (name, value) in [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{path}");
    }
}

#[tokio::test]
async fn every_file_comes_whole_with_its_type_and_the_headers_that_guard_it() {
    let system = TestSystem::start().await;
    assert_eq!(files().len(), 10);
    for (path, name) in served() {
        let reply = system.get(&path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(content_type(&name))), "{path}");
        assert!(reply.text == source(&name), "{path} is the repository's");
        is_guarded(&reply, &path);
        assert!(reply.header("x-request-id").is_some(), "{path}");
        assert_eq!(reply.header("strict-transport-security"), None, "a laptop has no TLS");
    }
    assert_eq!(system.proxy.take().requests(), 0, "it needs no database");
}

#[tokio::test]
async fn who_came_by_tls_is_told_to_stay_with_it() {
    let system = TestSystem::start().await;
    let reply = system.send(Method::GET, "/", &[("x-forwarded-proto", "https")], "").await;
    assert_eq!(reply.header("strict-transport-security"), Some("max-age=63072000"));
}

#[tokio::test]
async fn a_copy_that_is_still_right_is_not_sent_again() {
    let system = TestSystem::start().await;
    let mut tags = BTreeSet::new();
    for (path, _) in served() {
        let tag = system.get(&path).await.header("etag").expect("a tag").to_owned();
        assert!(tag.len() == 34 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"older\", {tag}")] {
            let reply = system.send(Method::GET, &path, &[("if-none-match", &known)], "").await;
            assert_eq!((reply.status, reply.text.as_str()), (304, ""), "{path} {known}");
            assert_eq!(reply.header("etag"), Some(tag.as_str()));
            is_guarded(&reply, &path);
        }
        let reply = system.send(Method::GET, &path, &[("if-none-match", "\"older\"")], "").await;
        assert_eq!(reply.status, 200, "{path}");
        tags.insert(tag);
    }
    assert_eq!(tags.len(), served().len(), "each file has a tag of its own");
}

#[tokio::test]
async fn what_is_no_file_of_the_page_is_not_there() {
    let system = TestSystem::start().await;
    for path in [
        "/page/index.html",
        "/page/openapi.json",
        "/page/nothing.js",
        "/page/..%2fCargo.toml",
        "/page/%00",
        "/page/app.js/x",
    ] {
        assert_eq!(system.get(path).await.refusal(), (404, "NOT_FOUND".to_owned()), "{path}");
    }
    let reply = system.send(Method::POST, "/page/app.js", &[], "").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET")));
}

#[test]
fn the_page_is_small() {
    let bytes: usize = files().iter().map(|(_, name)| source(name).len()).sum();
    assert!(bytes < 80_000, "{bytes} bytes");
}

/// The browser would refuse it, but only where somebody looks.
#[test]
fn the_page_makes_no_markup_of_text_and_names_no_other_place() {
    for (_, name) in files() {
        let text = source(&name);
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "DOMParser",
            "eval(",
            "new Function",
        ] {
            assert!(!text.contains(word), "{name}: {word}");
        }
        let elsewhere = text.matches("//").count() - text.matches("// ").count();
        let expected = text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(elsewhere, expected, "{name} names another place");
    }
    let page = source("index.html");
    for (word, most) in [("<script", 1), ("style=", 0), (" on", 0)] {
        assert!(page.matches(word).count() <= most, "{word}");
    }
}

#[test]
fn the_page_asks_for_files_that_are_there() {
    let known: BTreeSet<String> = files().into_iter().map(|(_, name)| name).collect();
    for name in &known {
        let text = source(name);
        let imported = text.split("from \"./").skip(1).chain(text.split("\"page/").skip(1));
        for rest in imported {
            let asked = rest.split('"').next().expect("a name");
            assert!(known.contains(asked), "{name} asks for {asked}");
        }
    }
}
