//! The template is the system: its routes, functions, tables and environment are those of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use local::template::{Place, Route, Template};
use shared::config::Config;
use shared::runtime::app::REQUEST_BUDGET;
use shared::runtime::function::Function;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(name)).expect("a file of the repository")
}

fn template() -> Template {
    let parameters = [("Registration", "open"), ("Approval", "key")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let place = Place { table_name: &|id| format!("test-{id}"), api_url: "http://test" };
    Template::read("template.yaml", &file("template.yaml"), &parameters, place)
        .expect("a template that is understood")
}

/// The template's text for each function, by logical id: from its line to the next one as far to the left.
fn function_blocks() -> BTreeMap<String, String> {
    let mut blocks: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    let text = file("template.yaml");
    for line in text.lines().skip_while(|line| *line != "Resources:") {
        let is_head =
            line.starts_with("  ") && !line.starts_with("   ") && !line.trim_start().starts_with('#');
        if is_head {
            current =
                line.trim().strip_suffix(':').filter(|name| name.ends_with("Function")).map(str::to_owned);
        }
        if let Some(name) = &current {
            let block = blocks.entry(name.clone()).or_default();
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

#[test]
fn the_templates_routes_are_the_codes() {
    let mut declared = BTreeSet::new();
    for function in template().functions {
        for route in function.routes().cloned() {
            match route {
                Route::Default => assert_eq!(function.binary, "fallback"),
                Route::Exact { method, path } => {
                    declared.insert((method, path, function.binary.clone()));
                }
            }
        }
    }
    let in_code: BTreeSet<_> = functions::ROUTES
        .iter()
        .map(|(method, path, binary)| ((*method).to_owned(), (*path).to_owned(), (*binary).to_owned()))
        .collect();
    assert_eq!(in_code.len(), functions::ROUTES.len(), "no route twice");
    assert_eq!(declared, in_code);
}

/// docs/performance.md bills 250 bytes for the access log's line of a heartbeat.
#[test]
fn a_heartbeats_line_of_the_access_log_has_at_most_250_bytes() {
    let text = file("template.yaml");
    let format = text.split("Format: >-\n").nth(1).expect("the access log's format");
    let format = format.lines().map(str::trim).take_while(|line| line.starts_with(['{', '"']));
    let line = format.collect::<Vec<_>>().join(" ");
    let values = [
        ("requestId", "JKJaXmPLvHcESHA="),
        ("integration.requestId", "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"),
        ("requestTimeEpoch", "1795777819629"),
        ("identity.sourceIp", "198.51.100.101"),
        ("httpMethod", "POST"),
        ("routeKey", "POST /api/v1/agent/heartbeat"),
        ("status", "200"),
        ("responseLatency", "12"),
        ("integrationErrorMessage", "-"),
    ];
    let fill = |line: String, (name, value): (&str, &str)| {
        let quoted = format!("\"$context.{name}\"");
        assert!(line.contains(&quoted), "{name}: {line}");
        line.replace(&quoted, &format!("\"{value}\""))
    };
    let line = values.into_iter().fold(line, fill);
    assert!(!line.contains('$'), "{line}");
    serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
    assert!(line.len() <= 250, "{} bytes: {line}", line.len());
}

#[test]
fn what_no_route_takes_has_a_function() {
    let functions = template().functions;
    let default = functions.iter().filter(|function| function.routes().any(|route| *route == Route::Default));
    assert_eq!(default.map(|function| function.binary.as_str()).collect::<Vec<_>>(), ["fallback"]);
}

#[test]
fn the_templates_functions_are_the_binaries() {
    let functions = template().functions;
    let declared: BTreeSet<_> = functions.iter().map(|function| function.binary.clone()).collect();
    assert_eq!(declared.len(), functions.len(), "one function per binary");

    let files = std::fs::read_dir(Path::new(ROOT).join("functions/bin")).unwrap();
    let files: BTreeSet<_> =
        files.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(declared, files);

    let manifest = file("Cargo.toml");
    let rows = manifest.lines().filter_map(|line| line.trim().strip_prefix("{ name = \""));
    let binaries: BTreeSet<_> = rows
        .map(|row| {
            let (name, rest) = row.split_once('"').expect("a name");
            let expected = format!(", path = \"functions/bin/{name}.rs\", test = false, doc = false }},");
            assert_eq!(rest, expected, "{name}");
            name.to_owned()
        })
        .collect();
    assert_eq!(declared, binaries);

    for binary in &declared {
        assert!(functions::function(binary).is_some(), "{binary} cannot be hosted");
    }
}

#[test]
fn every_binary_serves_its_own_function() {
    for function in template().functions {
        let main = file(&format!("functions/bin/{}.rs", function.binary));
        assert!(main.contains(&format!("functions::{}::", function.binary.replace('-', "_"))), "{main}");
        let is_endpoint = matches!(functions::function(&function.binary), Some(Function::Endpoint(_)));
        assert_eq!(is_endpoint, function.routes().next().is_some(), "{}", function.binary);
        assert_eq!(is_endpoint, main.contains("::serve"), "{main}");
    }
}

#[test]
fn a_functions_environment_is_what_it_reads_and_no_more() {
    for function in template().functions {
        let code = functions::function(&function.binary).expect("a function of that name");
        let read: BTreeSet<_> = code.reads().iter().map(|setting| setting.variable().to_owned()).collect();
        let declared: BTreeSet<_> = function.environment.keys().cloned().collect();
        assert_eq!(declared, read, "{}", function.binary);
        Config::read(code.reads(), |name| function.environment.get(name).cloned())
            .unwrap_or_else(|error| panic!("{}: {error}", function.binary));
    }
}

#[test]
fn the_tables_are_those_that_the_code_expects() {
    let template = template();
    let tables: Vec<_> = template
        .tables
        .iter()
        .map(|table| {
            let keys = table.key_schema.iter().map(|key| (key.attribute.as_str(), key.key_type.as_str()));
            (table.logical_id.as_str(), keys.collect::<Vec<_>>(), table.stream_view_type.as_deref())
        })
        .collect();
    assert_eq!(
        tables,
        [
            ("AgentsTable", vec![("agent_id", "HASH")], None),
            ("EventsTable", vec![("agent_id", "HASH"), ("event_id", "RANGE")], Some("NEW_IMAGE")),
            ("WindowsTable", vec![("window_id", "HASH")], None),
            ("TokensTable", vec![("token_id", "HASH")], None),
            ("ChannelsTable", vec![("listing", "HASH"), ("channel_id", "RANGE")], None),
            ("SecretsTable", vec![("channel_id", "HASH")], None),
            ("AlertsTable", vec![("alert_log", "HASH"), ("alert_key", "RANGE")], Some("KEYS_ONLY")),
        ]
    );
    for table in &template.tables {
        let expires = (table.logical_id != "SecretsTable").then_some("expires_at");
        assert_eq!(table.ttl_attribute.as_deref(), expires, "{}", table.logical_id);
    }
    let indexes: Vec<_> = template
        .tables
        .iter()
        .flat_map(|table| {
            table.global_secondary_indexes.iter().map(|index| (table.logical_id.as_str(), index))
        })
        .map(|(table, index)| (table, index.name.as_str(), index.projection_type.as_str()))
        .collect();
    assert_eq!(
        indexes,
        [
            ("AgentsTable", "by_age", "INCLUDE"),
            ("AgentsTable", "by_name", "INCLUDE"),
            ("AgentsTable", "by_absence", "KEYS_ONLY"),
            ("TokensTable", "by_age", "ALL"),
            ("AlertsTable", "by_due", "KEYS_ONLY"),
        ]
    );
    let of_agents = template.tables[0].global_secondary_indexes.iter().map(|index| {
        let keys = index.key_schema.iter().map(|key| key.attribute.as_str());
        keys.chain(index.non_key_attributes.iter().map(String::as_str)).collect::<Vec<_>>()
    });
    assert_eq!(
        of_agents.collect::<Vec<_>>(),
        [
            vec!["listing", "listing_key", "board_id", "expires_at"],
            vec!["listing", "agent_name", "board_id", "expires_at", "listing_key"],
            vec!["listing", "offline_since"],
        ],
        "no heartbeat may touch an index"
    );
    for function in template.functions {
        for (variable, value) in function.environment {
            if let Some(table) = variable.strip_suffix("_TABLE") {
                assert_eq!(value.to_uppercase(), format!("TEST-{table}TABLE"), "{}", function.binary);
            }
        }
    }
}

#[test]
fn the_tables_have_no_fixed_names() {
    let text = file("template.yaml");
    let fixed = text.lines().find(|line| line.trim_start().starts_with("TableName:"));
    assert_eq!(fixed, None, "a retained table would block a new stack");
}

#[test]
fn an_endpoint_answers_before_its_function_times_out() {
    for function in template().functions {
        if function.routes().next().is_some() {
            assert!(function.timeout > REQUEST_BUDGET, "{}: {:?}", function.binary, function.timeout);
        }
    }
}

#[test]
fn the_sweep_and_what_delivers_run_every_minute_and_nothing_else_is_scheduled() {
    for function in template().functions {
        let every: Vec<_> = function.schedules().map(|schedule| schedule.every).collect();
        let is_scheduled = ["deliver", "sweep"].contains(&function.binary.as_str());
        let expected: &[Duration] = if is_scheduled { &[Duration::from_mins(1)] } else { &[] };
        assert_eq!(every, expected, "{}", function.binary);
    }
}

#[test]
fn only_the_sweep_may_scan_and_nobody_may_do_everything() {
    let blocks = function_blocks();
    assert_eq!(blocks.len(), template().functions.len());
    for (name, block) in &blocks {
        assert_eq!(block.contains("dynamodb:Scan"), name == "SweepFunction", "{name}");
        for line in block.lines().filter(|line| !line.trim_start().starts_with('#')) {
            assert!(!line.contains('*'), "{name}: {line}");
        }
        assert!(!block.contains("dynamodb:DeleteTable"), "{name}");
    }
}
