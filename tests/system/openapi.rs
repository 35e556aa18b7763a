//! The document of the API: its paths are the routes.

use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../docs/openapi.yaml");

/// Each path and method of the document: the two outermost keys under `paths`.
fn operations() -> BTreeSet<(String, String)> {
    let (_, paths) = DOCUMENT.split_once("\npaths:\n").expect("paths");
    let (paths, _) = paths.split_once("\nwebhooks:\n").expect("webhooks");
    let (mut operations, mut path) = (BTreeSet::new(), "");
    for line in paths.lines() {
        let key = line.trim_start().trim_end_matches(':').trim_matches('\'');
        match line.len() - line.trim_start().len() {
            2 => path = key,
            4 => assert!(operations.insert((key.to_uppercase(), path.to_owned())), "{line} twice"),
            _ => {}
        }
    }
    operations
}

#[test]
fn paths_are_the_routes() {
    let routes = functions::ROUTES.iter();
    let routes: BTreeSet<_> =
        routes.map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(operations(), routes);
}
