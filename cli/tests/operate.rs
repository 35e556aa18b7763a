//! The operators' verbs, as a terminal and a script use them.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Output;
use std::sync::mpsc::channel;
use std::thread;

use serde_json::{Value, json};
use support::{Folder, PATIENCE, Rollcall, Running, answering, eventually};

/// Runs a verb; its exit code, standard output and standard error.
fn ran(rollcall: &Rollcall, folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let mut command = folder.rollcall(&rollcall.url);
    said(
        command
            .env("ROLLCALL_OPERATOR_TOKEN", &rollcall.operator)
            .args(arguments)
            .output()
            .expect("an executable"),
    )
}

fn said(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

/// Whether a line is as the page shows it: its `…` stands for anything, and spaces for any number of them.
fn is_alike(shown: &str, printed: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, printed) = (words(shown), words(printed));
    let mut parts = shown.split('…').map(str::trim);
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut last = shown.split('…').count() == 1;
    for part in parts {
        last = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    last || rest.is_empty()
}

#[test]
fn an_operators_day_is_as_the_page_shows_it() {
    let (rollcall, folder) = (Rollcall::with(&[("Approval", "operator")]), Folder::new());
    let board = "6d1f0c9a-6f0e-4c53-9b1e-2f7f0f3f5a11";
    let config = json!({ "interval_seconds": 60, "missing_tolerance": 120 });
    let indexer = rollcall.agent(json!({ "name": "indexer", "board_id": board, "heartbeat_config": config }));
    rollcall.heartbeat(&indexer.key, "healthy");
    rollcall.advance(1);
    rollcall.call("POST", "/api/agents/register", json!({ "name": "nightly" }));
    rollcall.sweep();

    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/clients.md"));
    let section =
        page.split("\n## ").find(|section| section.starts_with("The command line")).expect("the section");
    let blocks = section.split("```console\n").skip(1).filter_map(|block| block.split("```").next());
    let blocks = blocks.collect::<Vec<_>>();
    assert_eq!(blocks.len(), 2);
    for (number, block) in blocks.iter().enumerate() {
        let path =
            Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("a folder").display().to_string();
        let commands = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect::<Vec<_>>();
        let script = commands.iter().flat_map(|command| ["echo '$'", command]).collect::<Vec<_>>().join("\n");
        let mut bash = folder.by("bash", &rollcall.url);
        bash.env("ROLLCALL_OPERATOR_TOKEN", &rollcall.operator);
        let output =
            bash.args(["-c", &format!("exec 2>&1; PATH={path}:$PATH\n{script}")]).output().expect("bash");
        let printed = String::from_utf8(output.stdout).expect("text");
        let printed =
            printed.split("$\n").skip(1).map(|text| text.lines().collect::<Vec<_>>()).collect::<Vec<_>>();
        let mut shown = Vec::new();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(_) => shown.push(Vec::new()),
                None => shown.last_mut().expect("a command first").push(line),
            }
        }
        for ((command, shown), printed) in commands.iter().zip(&shown).zip(&printed) {
            let alike = shown.len() == printed.len()
                && shown.iter().zip(printed).all(|(shown, printed)| is_alike(shown, printed));
            assert!(
                alike,
                "$ {command}\nthe page shows:\n{}\nit printed:\n{}",
                shown.join("\n"),
                printed.join("\n")
            );
        }
        assert_eq!(shown.len(), printed.len());
        if number == 0 {
            // Nobody hears of the indexer any more.
            for _ in 0..5 {
                rollcall.advance(60);
                rollcall.sweep();
            }
        }
    }
}

#[test]
fn errors_say_what_to_do_and_their_codes_are_for_scripts() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    rollcall.agent(json!({ "name": "twin" }));
    rollcall.agent(json!({ "name": "twin" }));
    rollcall.agent(json!({ "name": "twin-2" }));
    let (code, out, err) = ran(&rollcall, &folder, &["agent", "twin"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.starts_with("rollcall: 2 agents are named \"twin\": say which by its id, "), "{err}");
    assert_eq!(ran(&rollcall, &folder, &["agent", "twin-2"]).0, 0);
    let (code, _, err) = ran(&rollcall, &folder, &["stop", "twi"]);
    assert_eq!(
        (code, err.as_str()),
        (
            3,
            "rollcall: no agent is named \"twi\"; `rollcall agents --name PREFIX` lists those that begin so\n"
        )
    );
    let (code, _, err) = ran(&rollcall, &folder, &["agent", "00000000-0000-5000-8000-000000000000"]);
    assert_eq!((code, err.contains("404")), (3, true), "{err}");

    let without = |url: &str, token: &str| {
        let mut command = folder.rollcall(url);
        said(command.env("ROLLCALL_OPERATOR_TOKEN", token).args(["agents"]).output().expect("an executable"))
    };
    let (code, _, err) = without(&rollcall.url, "");
    assert!(
        code == 2 && err.contains("ROLLCALL_OPERATOR_TOKEN is not set. `cargo run` prints"),
        "{code} {err}"
    );
    let (code, _, err) = without(&rollcall.url, &format!("rco_{}", "0".repeat(48)));
    assert!(
        code == 1 && err.contains("HTTP 401: ") && err.contains("Set ROLLCALL_OPERATOR_TOKEN"),
        "{code} {err}"
    );
    let (code, _, err) = without("http://127.0.0.1:1", &rollcall.operator);
    assert!(code == 4 && err.contains("no answer from http://127.0.0.1:1: "), "{code} {err}");
    let viewer = rollcall.mint(&json!({ "kind": "operator", "role": "viewer" }));
    let mut command = folder.rollcall(&rollcall.url);
    let command = command.env("ROLLCALL_OPERATOR_TOKEN", viewer).args(["pause", "twin-2"]);
    let (code, _, err) = said(command.output().expect("an executable"));
    assert!(code == 1 && err.contains("`rollcall tokens self` says what this token may do"), "{code} {err}");
    assert_eq!(ran(&rollcall, &folder, &["pause"]).0, 2);
}

#[test]
fn what_ends_something_for_many_is_asked_first_and_done_for_all() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let board = "6d1f0c9a-6f0e-4c53-9b1e-2f7f0f3f5a11";
    let agents = (0..40)
        .map(|n| rollcall.agent(json!({ "name": format!("n-{n}"), "board_id": board })))
        .collect::<Vec<_>>();
    let other = rollcall.agent(json!({ "name": "other" }));
    let (code, out, err) = ran(&rollcall, &folder, &["stop", "--board", board]);
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", "rollcall: stop 40 agents? Say so with --yes\n"));
    let action = |id: &str| {
        rollcall.get(&format!("/api/v1/agents/{id}?detail=true"))["detail"]["directive"]["action"].clone()
    };
    assert!(action(&agents[0].id).is_null());
    let (code, out, err) = ran(
        &rollcall,
        &folder,
        &["stop", "--board", board, "--yes", "--deadline", "1m", "--reason", "night"],
    );
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 40, ""), "{out}");
    assert!(agents.iter().all(|agent| action(&agent.id) == "stop"));
    assert!(action(&other.id).is_null());
    assert_eq!(rollcall.events(&agents[7].id, "agent.directed")[0]["payload"]["reason"], "night");
    // What goes on or begins is not asked about; who cannot have it is named, and the others have it.
    rollcall.call("POST", &format!("/api/v1/agents/{}/revoke", other.id), json!({}));
    let (code, out, err) = ran(&rollcall, &folder, &["resume", "n-0", "n-1", "other", "--json"]);
    assert_eq!((code, err.as_str()), (1, "rollcall: 1 of 3 agents: see above\n"));
    let answers: Vec<Value> = serde_json::from_str(&out).expect("JSON");
    assert_eq!(answers[0]["directive"]["action"], "run");
    assert_eq!(
        (&answers[2]["name"], answers[2]["error"].is_string()),
        (&json!("other"), true),
        "{answers:?}"
    );
}

#[test]
fn json_is_what_the_api_answers_and_tables_show_no_escapes() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "a\u{202e}b" }));
    rollcall.heartbeat(&agent.key, "degraded");
    let (code, out, _) = ran(&rollcall, &folder, &["agents", "--json"]);
    assert!(out.contains("a\\u202eb"), "{out}");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).expect("JSON")),
        (0, rollcall.get("/api/v1/agents?detail=true")["items"].clone())
    );
    let (_, out, _) = ran(&rollcall, &folder, &["agent", &agent.id, "--json"]);
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(shown, rollcall.get(&format!("/api/v1/agents/{}?detail=true", agent.id)));
    let (_, out, _) = ran(&rollcall, &folder, &["agents", "--status", "degraded"]);
    assert!(out.contains("a b") && !out.contains(['\u{202e}', '\u{1b}']), "{out}");
    assert_eq!(ran(&rollcall, &folder, &["agents", "--status", "offline"]).1, "no agents\n");
    // What is cut says so.
    rollcall.agent(json!({ "name": "n".repeat(50) }));
    let (_, out, _) = ran(&rollcall, &folder, &["agents", "--name", "n"]);
    assert!(out.contains(&format!("\n{}…  ", "n".repeat(47))), "{out}");
}

#[test]
fn who_answers_and_is_not_rollcall_is_no_empty_fleet() {
    let folder = Folder::new();
    let token = format!("rco_{}", "0".repeat(48));
    for body in ["<html>Welcome to this hotel</html>", "[]", r#"{"welcome": "to this hotel"}"#] {
        let url =
            answering(move |_, _| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let mut command = folder.rollcall(&url);
        let command = command.env("ROLLCALL_OPERATOR_TOKEN", &token).args(["agents", "--json"]);
        let (code, out, err) = said(command.output().expect("an executable"));
        assert_eq!((code, out.as_str()), (4, ""), "{body}");
        assert!(err.contains("answers, and not as Rollcall does. Is ROLLCALL_URL right?"), "{err}");
    }
    // Nor does it get the token into a log.
    let url = answering(|_, request| {
        let token = request.split("Bearer ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let body = json!({ "detail": format!("\u{1b}[2Jno {token}") }).to_string();
        format!("HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let mut command = folder.rollcall(&url);
    let (code, _, err) =
        said(command.env("ROLLCALL_OPERATOR_TOKEN", &token).arg("fleet").output().expect("an executable"));
    assert!(code == 1 && err.starts_with("rollcall: HTTP 401:  [2Jno (the token). Set"), "{err}");
}

#[test]
fn where_nobody_reads_it_ends_and_what_cannot_be_written_is_a_failure() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    rollcall.agent(json!({ "name": "read" }));
    let shell = |script: &str| {
        let mut command = folder.by("bash", &rollcall.url);
        command
            .env("ROLLCALL_OPERATOR_TOKEN", &rollcall.operator)
            .env("rollcall", env!("CARGO_BIN_EXE_rollcall"));
        said(command.args(["-c", script]).output().expect("bash"))
    };
    let (code, out, err) = shell("$rollcall agents --json > /dev/full");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("rollcall: standard output: No space left"), "{err}");
    assert_eq!(shell("$rollcall completions bash > /dev/full").0, 1);
    // Nothing happens any more, and it ends all the same.
    for verb in ["events read", "alerts"] {
        let (code, out, err) = shell(&format!("$rollcall {verb} --follow | true; echo ${{PIPESTATUS[0]}}"));
        assert_eq!((code, out.as_str(), err.as_str()), (0, "141\n", ""), "{verb}");
    }
    let (_, out, _) =
        shell("{ sleep 1; $rollcall tokens mint operator; echo $? > code; } 2>&1 | true; cat code");
    assert_eq!(out, "141\n");
}

#[test]
fn who_follows_ends_with_its_token() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    rollcall.agent(json!({ "name": "followed" }));
    let token = rollcall.mint(&json!({ "kind": "operator", "label": "short" }));
    let mut command = folder.rollcall(&rollcall.url);
    command.env("ROLLCALL_OPERATOR_TOKEN", token).args(["events", "followed", "--follow"]);
    let mut follows = Running::start(&mut command);
    let mut first = String::new();
    BufReader::new(follows.child.stdout.as_mut().expect("standard output"))
        .read_line(&mut first)
        .expect("a line");
    assert!(first.contains("agent.registered"), "{first}");
    assert_eq!(ran(&rollcall, &folder, &["tokens", "delete", "short"]).0, 0);
    follows.says("Set ROLLCALL_OPERATOR_TOKEN to an operator's token that has not ended");
    assert_eq!(follows.ends().code(), Some(1));
}

#[test]
fn settings_are_changed_and_taken_back_and_agents_are_removed() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let board = "6d1f0c9a-6f0e-4c53-9b1e-2f7f0f3f5a11";
    let agent = rollcall.agent(json!({ "name": "settled" }));
    let set = |flags: &str| {
        let flags = flags.split(' ').collect::<Vec<_>>();
        ran(&rollcall, &folder, &[&["set", "settled"], &flags[..]].concat())
    };
    let path = format!("/api/v1/agents/{}?detail=true", agent.id);
    let (code, out, err) =
        set("--interval 10m --silent-after 30m --stall-after 1h --limit 90 --tokens-per-day 5000");
    assert!(code == 0 && out.starts_with("changed  settled  "), "{out}{err}");
    let (code, out, err) = set(&format!("--to-board {board}"));
    assert_eq!(code, 0, "{out}{err}");
    let shown = rollcall.get(&path);
    let config = json!({ "interval_seconds": 600, "missing_tolerance": 1800 });
    assert_eq!((&shown["heartbeat_config"], &shown["board_id"]), (&config, &json!(board)));
    let detail = &shown["detail"];
    assert_eq!(
        (&detail["stall_after_seconds"], &detail["rate_limit_per_minute"], &detail["today"]["budget"]),
        (&json!(3600), &json!(90), &json!({ "tokens_per_day": 5000 })),
        "{shown:#}"
    );
    assert_eq!(set("--interval 5m").0, 0);
    assert_eq!(rollcall.get(&path)["heartbeat_config"]["interval_seconds"], 300);
    assert_eq!(set("--stall-after default --limit default --usd-per-day none --to-board none").0, 0);
    let shown = rollcall.get(&path);
    assert_eq!((&shown["board_id"], &shown["detail"]["today"]), (&json!(null), &json!(null)), "{shown:#}");
    let other = rollcall.agent(json!({ "name": "other" }));
    let both = ["set", "settled", &other.id, "--rename", "twin"];
    assert_eq!(ran(&rollcall, &folder, &both).0, 2);
    for wrong in [
        &["set", "settled"][..],
        &["set", "settled", "--limit", "many"],
        &["set", "settled", "--usd-per-day", "inf"],
        &["set", "--interval", "1m"],
    ] {
        assert_eq!(ran(&rollcall, &folder, wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(ran(&rollcall, &folder, &["set", "settled", "--interval", "1m", "--reason", "x"]).0, 2);
    assert_eq!(set("--rename moved").0, 0);

    // Of many, those that are shut out; and whoever is named twice is meant once.
    assert_eq!(ran(&rollcall, &folder, &["remove", "--all"]).1, "no agents are revoked\n");
    let (code, out, err) = ran(&rollcall, &folder, &["remove", "moved", &agent.id]);
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 1, ""), "{out}");
    assert_eq!(ran(&rollcall, &folder, &["agent", &agent.id]).0, 3);
    assert_eq!(ran(&rollcall, &folder, &["agents", "--json"]).1.matches("\"name\"").count(), 1);
    assert!(ran(&rollcall, &folder, &["events", &agent.id]).1.contains("agent.deleted"));
}

#[test]
fn more_than_a_page_of_agents_is_walked() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    for n in 0..205 {
        rollcall.agent(json!({ "name": format!("n-{n}") }));
    }
    for query in [&["agents", "--json"][..], &["agents", "--json", "--name", "n-"]] {
        let (_, out, _) = ran(&rollcall, &folder, query);
        let agents: Vec<Value> = serde_json::from_str(&out).expect("JSON");
        let names = agents
            .iter()
            .filter_map(|agent| agent["name"].as_str())
            .collect::<std::collections::BTreeSet<_>>();
        assert_eq!((agents.len(), names.len()), (205, 205), "{query:?}");
    }
}

#[test]
fn what_happens_is_followed_without_a_gap_and_without_a_repetition() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "followed" }));
    let mut command = folder.rollcall(&rollcall.url);
    command
        .env("ROLLCALL_OPERATOR_TOKEN", &rollcall.operator)
        .args(["events", "followed", "--follow", "--json"]);
    let mut follows = Running::start(&mut command);
    let (sender, lines) = channel();
    let stdout = BufReader::new(follows.child.stdout.take().expect("standard output"));
    thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
    let next = || {
        let line = lines.recv_timeout(PATIENCE).expect("an event");
        serde_json::from_str::<Value>(&line).expect("JSON")["type"].clone()
    };
    assert_eq!(next(), "agent.registered");
    for n in 0..3 {
        let event = json!({ "apiKey": agent.key, "event": format!("step {n}") });
        rollcall.call("POST", "/api/agents/events", event);
        assert_eq!(next(), format!("step {n}"));
    }
}

#[test]
fn from_a_name_to_a_stop_by_the_command_line_alone() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let mut command = folder.rollcall(&rollcall.url);
    let mut wrapped = Running::start(command.args(["run", "--name", "demo", "--", "sleep", "1000"]));
    let agent = rollcall.named("demo");
    let id = agent["id"].as_str().expect("an id");
    rollcall.until_status(id, "healthy");
    rollcall.call(
        "PATCH",
        &format!("/api/v1/agents/{id}"),
        json!({ "heartbeat_config": { "interval_seconds": 1 } }),
    );
    wrapped.signal("TERM");
    wrapped.ends();
    let mut wrapped = Running::start(command.env("ROLLCALL_URL", format!("{}/", rollcall.url)));
    eventually("life", || (rollcall.status(id) == "healthy").then_some(()));
    let (code, out, _) = ran(&rollcall, &folder, &["stop", "demo"]);
    assert!(code == 0 && out.contains("stop"), "{out}");
    assert_eq!(wrapped.ends().code(), Some(143));
    let (_, out, _) = ran(&rollcall, &folder, &["agents", "--name", "demo"]);
    assert!(out.contains("stop, acknowledged"), "{out}");
}

#[test]
fn tokens_and_channels_are_managed_by_their_labels() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let (code, token, err) = ran(
        &rollcall,
        &folder,
        &["tokens", "mint", "operator", "--role", "viewer", "--label", "wall", "--expires", "2h"],
    );
    assert!(code == 0 && token.trim().starts_with("rco_") && err.contains("in 2 h"), "{token}{err}");
    let mut command = folder.rollcall(&rollcall.url);
    let command = command.env("ROLLCALL_OPERATOR_TOKEN", token.trim()).args(["tokens", "self"]);
    assert!(said(command.output().expect("an executable")).1.contains("viewer"));
    assert_eq!(
        ran(&rollcall, &folder, &["tokens", "delete", "wall"]),
        (0, "ended\n".to_owned(), String::new())
    );
    assert!(!ran(&rollcall, &folder, &["tokens"]).1.contains("wall"));
    fs::write(folder.file("url"), "http://127.0.0.1:1/hook\n").expect("a file");
    let (code, secret, err) = ran(
        &rollcall,
        &folder,
        &["channels", "add", "webhook", "--url-file", "url", "--label", "ops", "--concern", "offline"],
    );
    assert!(code == 0 && secret.starts_with("whsec_"), "{secret}{err}");
    assert_eq!(ran(&rollcall, &folder, &["channels", "pause", "ops"]).1, "paused\n");
    assert!(ran(&rollcall, &folder, &["channels"]).1.contains("paused"));
    assert_eq!(ran(&rollcall, &folder, &["channels", "resume", "ops"]).1, "resumed\n");
    assert!(ran(&rollcall, &folder, &["channels", "deliveries", "ops"]).1.contains("channel.hello"));
    fs::write(folder.file("moved"), "http://127.0.0.1:2/hook\n").expect("a file");
    let moved = ["channels", "set", "ops", "--url-file", "moved", "--concern", "error", "--label", "night"];
    assert_eq!(ran(&rollcall, &folder, &moved), (0, "changed\n".to_owned(), String::new()));
    let channel = rollcall.get("/api/v1/channels")["items"][0].clone();
    assert_eq!((&channel["label"], &channel["concerns"]), (&json!("night"), &json!(["error"])), "{channel}");
    assert!(
        ran(&rollcall, &folder, &["channels", "set", "night", "--rotate-secret", "1h"])
            .1
            .starts_with("whsec_")
    );
    assert_eq!(ran(&rollcall, &folder, &["channels", "set", "night"]).0, 2);
    assert_eq!(
        ran(&rollcall, &folder, &["channels", "redeliver", "night", "--failed-within", "1d"]).1,
        "0 queued again\n"
    );
    assert_eq!(ran(&rollcall, &folder, &["channels", "redeliver", "night"]).0, 2);
    let long = ["channels", "redeliver", "night", "--failed-within", "99999999999d"];
    assert_eq!(ran(&rollcall, &folder, &long).0, 2);
    assert_eq!(ran(&rollcall, &folder, &["channels", "set", "night", "--label", "ops"]).0, 0);
    assert_eq!(ran(&rollcall, &folder, &["channels", "remove", "ops"]).1, "removed\n");
    assert_eq!(ran(&rollcall, &folder, &["channels", "test", "ops"]).0, 3);
    assert_eq!(ran(&rollcall, &folder, &["open"]).1, format!("{}/\n", rollcall.url));
    let link = ran(&rollcall, &folder, &["open", "--with-token"]).1;
    assert_eq!(link, format!("{}/#token={}\n", rollcall.url, rollcall.operator));
}

#[test]
fn help_fits_a_screen_and_every_verb_shows_an_example() {
    let folder = Folder::new();
    let help = |arguments: &[&str]| {
        let (code, out, _) =
            said(folder.rollcall("http://127.0.0.1:1").args(arguments).output().expect("an executable"));
        assert_eq!(code, 0, "{arguments:?}");
        out
    };
    let screen = help(&["--help"]);
    assert!(
        screen.lines().count() <= 24 && screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    let completions = help(&["completions", "fish"]);
    let verbs = completions
        .lines()
        .filter(|line| line.contains("__fish_rollcall_needs_command") && line.contains("-a \""));
    let verbs =
        verbs.filter_map(|line| line.split("-a \"").nth(1)?.split('"').next()).filter(|verb| *verb != "help");
    let verbs = verbs.collect::<Vec<_>>();
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        assert!(screen.contains(verb), "{verb} is not in the first help");
        assert!(help(&[verb, "--help"]).contains("Example"), "{verb} has no example");
        if ["tokens", "channels"].contains(&verb) {
            for line in help(&[verb, "--help"]).lines().skip_while(|line| *line != "Commands:").skip(1) {
                match line.split_whitespace().next() {
                    Some("help") | None => break,
                    Some(inner) => {
                        assert!(help(&[verb, inner, "--help"]).contains("Example"), "{verb} {inner}");
                    }
                }
            }
        }
    }
    help(&["man", "."]);
    let page = fs::read_to_string(folder.file("rollcall-run.1")).expect("a page");
    assert!(page.contains(".TH rollcall-run 1"), "{page}");
    for shell in ["bash", "zsh"] {
        assert!(help(&["completions", shell]).contains("on-directive"), "{shell}");
    }
}
