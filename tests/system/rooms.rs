//! Who may name whom in `shared`: domain ← store, domain ← wire, all ← runtime. Store and wire never meet.

use std::path::{Path, PathBuf};

/// A room, the other rooms that it may name, and the crates that none of its files may name.
const RULES: [(&str, &[&str], &[&str]); 4] = [
    ("domain", &[], &["aws_", "lambda_", "serde_dynamo", "http::", "tokio"]),
    ("store", &["domain"], &["lambda_"]),
    ("wire", &["domain"], &["aws_sdk", "serde_dynamo"]),
    ("runtime", &["domain", "store", "wire"], &[]),
];

fn files_below(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_room_names_one_that_stands_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shared/src");
    for (room, may_name, never) in RULES {
        let mut files = vec![source.join(room).with_extension("rs")];
        files_below(&source.join(room), &mut files);
        assert!(files.len() > 5, "{room} has moved");
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a file");
            for (other, ..) in RULES.iter().filter(|(other, ..)| *other != room && !may_name.contains(other))
            {
                let named = [format!("crate::{other}::"), format!("crate::{{{other}")];
                assert!(!named.iter().any(|name| text.contains(name)), "{}: names {other}", file.display());
            }
            for name in never {
                assert!(!text.contains(name), "{}: names {name}", file.display());
            }
        }
    }
}
