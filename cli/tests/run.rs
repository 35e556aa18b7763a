//! `rollcall run … -- cmd`, as a shell and a supervisor use it.

mod support;

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use serde_json::json;
use support::{Folder, Rollcall, Running, answering, children, eventually, process_state, signal};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

fn sh(command: &mut Command, script: &str) -> Running {
    Running::start(command.args(["--", "sh", "-c", script]))
}

#[test]
fn the_exit_code_is_the_childs_own_with_rollcall_away() {
    let folder = Folder::new();
    fs::write(folder.file("plain"), "no program").expect("a file");
    let code = |command: &[&str]| {
        let mut wrapped = folder.rollcall(NOWHERE);
        let output = wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--"]).args(command).output();
        let output = output.expect("an executable");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    assert_eq!(code(&["sh", "-c", "echo out; exit 0"]), (Some(0), "out\n".to_owned()));
    assert_eq!(code(&["sh", "-c", "exit 3"]).0, Some(3));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]).0, Some(137));
    assert_eq!(code(&["sh", "-c", "kill -35 $$"]).0, Some(128 + 35));
    assert_eq!(code(&["there-is-no-such-program"]).0, Some(127));
    assert_eq!(code(&["./plain"]).0, Some(126));
}

#[test]
fn without_a_key_and_with_a_broken_configuration_the_child_runs_all_the_same() {
    let folder = Folder::new();
    fs::write(folder.file("words"), "half a key\n").expect("a file");
    for (url, flags, why) in [
        (NOWHERE, &[][..], "no heartbeats: the agent needs a key"),
        (
            "http://rollcall.example",
            &["--name", "a"],
            "no heartbeats: ROLLCALL_URL: http://rollcall.example would show",
        ),
        (NOWHERE, &["--key-file", "missing"], "no heartbeats: missing: No such file"),
        (NOWHERE, &["--key-file", "."], "no heartbeats: .: Is a directory"),
        (NOWHERE, &["--key-file", "words"], "no heartbeats: words: has letters that no key or token has"),
    ] {
        let mut wrapped = sh(folder.rollcall(url).arg("run").args(flags), "echo out; exit 5");
        wrapped.says(why);
        assert_eq!((wrapped.output().as_str(), wrapped.ends().code()), ("out\n", Some(5)));
    }
}

#[test]
fn the_first_heartbeat_waits_for_nobody_and_the_child_for_no_answer() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = folder.file("seen");
    thread::spawn(move || {
        let mut held = Vec::new();
        for connection in listener.incoming() {
            held.push(connection);
            fs::write(&seen, "a heartbeat\n").expect("a file");
        }
    });
    // It ends only after a heartbeat was sent, and nobody ever answers one.
    let script = "until test -e seen; do sleep 0.05; done; echo seen; exit 7";
    let mut wrapped = sh(folder.rollcall(&url).env("ROLLCALL_KEY", KEY).arg("run"), script);
    assert_eq!(wrapped.output(), "seen\n");
    wrapped.says("could not say error at the end: it took longer than 3 s");
    assert_eq!(wrapped.ends().code(), Some(7));
}

#[test]
fn a_clean_end_is_an_event_and_a_good_bye() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "clean" }));
    fs::write(folder.file("key"), format!("{}\n", agent.key)).expect("a file");
    let mut wrapped = folder.rollcall(&rollcall.url);
    let mut wrapped = sh(wrapped.env("ROLLCALL_KEY_FILE", folder.file("key")).arg("run"), "exit 0");
    assert_eq!(wrapped.ends().code(), Some(0));
    assert_eq!(rollcall.status(&agent.id), "offline");
    let exited = rollcall.events(&agent.id, "process.exited");
    assert_eq!((exited.len(), &exited[0]["payload"]["code"]), (1, &json!(0)));
    assert!(exited[0]["payload"]["seconds"].is_number(), "{exited:?}");
    assert_eq!(rollcall.events(&agent.id, "agent.offline")[0]["payload"]["reason"], "reported");
}

#[test]
fn a_failure_is_an_event_and_an_error_without_a_good_bye_and_its_silence_is_told() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "fails" }));
    let mut wrapped = folder.rollcall(&rollcall.url);
    let wrapped = wrapped.env("ROLLCALL_KEY", &agent.key).args(["run", "--tail", "6"]);
    let mut wrapped = sh(wrapped, "echo first; echo second >&2; sleep 0.2; echo last; exit 3");
    wrapped.says("second");
    assert_eq!((wrapped.output().as_str(), wrapped.ends().code()), ("first\nlast\n", Some(3)));
    assert_eq!(rollcall.status(&agent.id), "error");
    let exited = rollcall.events(&agent.id, "process.exited");
    assert_eq!(
        (&exited[0]["payload"]["code"], &exited[0]["payload"]["tail"]),
        (&json!(3), &json!("\nlast\n"))
    );
    rollcall.sweep();
    for _ in 0..3 {
        rollcall.advance(60);
        rollcall.sweep();
    }
    assert_eq!(rollcall.events(&agent.id, "agent.offline")[0]["payload"]["reason"], "silent");
}

#[test]
fn what_the_child_wrote_stays_out_of_the_event_unless_it_is_asked_for() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "secretive" }));
    let mut wrapped = folder.rollcall(&rollcall.url);
    let wrapped = wrapped.env("ROLLCALL_KEY", &agent.key).args(["run", "--progress", "output"]);
    sh(wrapped, "echo secret; exit 1").ends();
    assert!(rollcall.events(&agent.id, "process.exited")[0]["payload"].get("tail").is_none());
}

#[test]
fn a_killed_wrapper_is_told_as_silent() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "killed" }));
    let mut wrapped =
        sh(folder.rollcall(&rollcall.url).env("ROLLCALL_KEY", &agent.key).arg("run"), "sleep 1000");
    rollcall.until_status(&agent.id, "healthy");
    rollcall.sweep();
    let left_behind = eventually("a child", || children(wrapped.pid()).first().copied());
    wrapped.signal("KILL");
    assert_eq!(wrapped.ends().signal(), Some(9));
    for _ in 0..3 {
        rollcall.advance(60);
        rollcall.sweep();
    }
    assert_eq!(rollcall.events(&agent.id, "agent.offline")[0]["payload"]["reason"], "silent");
    assert!(process_state(left_behind).is_some(), "without --die-with-me the child lives on");
    signal(left_behind, "KILL");
}

#[test]
fn a_child_that_dies_with_its_wrapper() {
    let folder = Folder::new();
    let mut wrapped = folder.rollcall(NOWHERE);
    let mut wrapped =
        sh(wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--die-with-me"]), "echo $$ > pid; exec sleep 1000");
    let child: u32 = folder.until_written("pid").trim().parse().expect("a number");
    wrapped.signal("KILL");
    wrapped.ends();
    eventually("the child's death", || process_state(child).is_none_or(|state| state == 'Z').then_some(()));
    let code = |program: &str| {
        let mut command = folder.rollcall(NOWHERE);
        let command = command.env("ROLLCALL_KEY", KEY).args(["run", "--die-with-me", "--", program]);
        command.output().expect("an executable").status.code()
    };
    assert_eq!((code("true"), code("false"), code("no-such-program")), (Some(0), Some(1), Some(127)));
}

#[test]
fn signals_are_passed_on_and_an_end_by_them_is_on_purpose() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "signalled" }));
    let run = |script: &str| {
        let running = sh(folder.rollcall(&rollcall.url).env("ROLLCALL_KEY", &agent.key).arg("run"), script);
        folder.until_written("ready");
        fs::remove_file(folder.file("ready")).expect("the file");
        running
    };
    let loops = "echo > ready; while :; do sleep 0.05; done";
    // The shell and the program that it waits for: both hear it.
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let mut wrapped = run(loops);
        wrapped.signal(name);
        assert_eq!(wrapped.ends().code(), Some(code), "{name}");
        assert_eq!(rollcall.status(&agent.id), "offline", "{name}");
    }
    let mut wrapped = run(loops);
    wrapped.signal("HUP");
    assert_eq!((wrapped.ends().code(), rollcall.status(&agent.id)), (Some(129), "error".to_owned()));
    for (name, file) in [("USR1", "one"), ("USR2", "two"), ("QUIT", "three"), ("WINCH", "four")] {
        let mut wrapped = run(&format!("trap 'echo {name} > {file}; exit 0' {name}; {loops}"));
        wrapped.signal(name);
        assert_eq!(folder.until_written(file).trim(), name);
        assert_eq!(wrapped.ends().code(), Some(0));
    }
    let mut wrapped = run(&format!("trap 'exit 9' TERM; {loops}"));
    wrapped.signal("TERM");
    assert_eq!((wrapped.ends().code(), rollcall.status(&agent.id)), (Some(9), "offline".to_owned()));
}

#[test]
fn what_was_ignored_before_is_ignored() {
    let folder = Folder::new();
    let mut command = folder.by("nohup", NOWHERE);
    command.env("ROLLCALL_KEY", KEY).args([env!("CARGO_BIN_EXE_rollcall"), "run"]);
    let mut wrapped = sh(&mut command, "echo > ready; kill -HUP $$; kill -HUP $PPID; sleep 0.3; exit 4");
    assert_eq!(wrapped.ends().code(), Some(4));
}

#[test]
fn a_stop_ends_a_child_that_ignores_it_and_is_acknowledged() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "stubborn", "heartbeat_config": { "interval_seconds": 1 } }));
    let mut wrapped = folder.rollcall(&rollcall.url);
    let mut wrapped = sh(
        wrapped.env("ROLLCALL_KEY", &agent.key).arg("run"),
        "trap 'echo asked > asked' TERM; while :; do sleep 0.05; done",
    );
    rollcall.until_status(&agent.id, "healthy");
    rollcall.direct(&agent.id, json!({ "action": "stop", "deadline_seconds": 5 }));
    wrapped.says("an operator tells the program to stop");
    folder.until_written("asked");
    eventually("the acknowledgement", || rollcall.is_acknowledged(&agent.id).then_some(()));
    wrapped.says("the program did not stop in time, and is killed");
    assert_eq!((wrapped.ends().code(), rollcall.status(&agent.id)), (Some(137), "offline".to_owned()));
    // Each start is told again.
    let mut again =
        sh(folder.rollcall(&rollcall.url).env("ROLLCALL_KEY", &agent.key).arg("run"), "sleep 1000");
    assert_eq!(again.ends().code(), Some(143));
}

#[test]
fn the_last_word_carries_the_acknowledgement_of_a_child_that_stops_at_once() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "obedient" }));
    rollcall.direct(&agent.id, json!({ "action": "stop" }));
    let mut wrapped =
        sh(folder.rollcall(&rollcall.url).env("ROLLCALL_KEY", &agent.key).arg("run"), "sleep 1000");
    assert_eq!(wrapped.ends().code(), Some(143));
    assert!(rollcall.is_acknowledged(&agent.id));
    assert_eq!(rollcall.status(&agent.id), "offline");
}

#[test]
fn a_pause_by_signal_is_acknowledged_when_the_child_stands_still() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "paused", "heartbeat_config": { "interval_seconds": 1 } }));
    let mut wrapped = folder.rollcall(&rollcall.url);
    let wrapped = wrapped.env("ROLLCALL_KEY", &agent.key).args(["run", "--pause", "signal"]);
    let mut wrapped = sh(wrapped, "echo $$ > pid; while :; do sleep 0.05; done");
    let child: u32 = folder.until_written("pid").trim().parse().expect("a number");
    rollcall.direct(&agent.id, json!({ "action": "pause" }));
    eventually("the acknowledgement", || rollcall.is_acknowledged(&agent.id).then_some(()));
    assert_eq!(process_state(child), Some('T'));
    rollcall.direct(&agent.id, json!({ "action": "run" }));
    eventually("work", || (process_state(child) != Some('T')).then_some(()));
    eventually("its acknowledgement", || {
        let told = rollcall.events(&agent.id, "agent.directive_acknowledged");
        (told[0]["payload"]["action"] == "run").then_some(())
    });
    // A paused child hears the end, too.
    rollcall.direct(&agent.id, json!({ "action": "pause" }));
    eventually("another pause", || (process_state(child) == Some('T')).then_some(()));
    wrapped.signal("TERM");
    assert_eq!(wrapped.ends().code(), Some(143));
}

#[test]
fn other_directives_are_a_commands_and_what_nobody_obeys_is_never_acknowledged() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "directed", "heartbeat_config": { "interval_seconds": 1 } }));
    let heartbeats =
        || rollcall.get(&format!("/api/v1/agents/{}/usage", agent.id))["requests_total"].as_u64().unwrap();
    let run = |flags: &[&str]| {
        let mut wrapped = folder.rollcall(&rollcall.url);
        sh(wrapped.env("ROLLCALL_KEY", &agent.key).arg("run").args(flags), "sleep 1000")
    };
    let wrapped = run(&[
        "--on-directive",
        "echo $ROLLCALL_DIRECTIVE $ROLLCALL_PID >> told; test $ROLLCALL_DIRECTIVE = drain",
    ]);
    rollcall.direct(&agent.id, json!({ "action": "pause" }));
    wrapped.says("the command failed, and nothing is acknowledged");
    let before = heartbeats();
    eventually("two more heartbeats", || (heartbeats() > before + 1).then_some(()));
    assert!(!rollcall.is_acknowledged(&agent.id));
    rollcall.direct(&agent.id, json!({ "action": "drain" }));
    eventually("the acknowledgement", || rollcall.is_acknowledged(&agent.id).then_some(()));
    let child = children(wrapped.pid())[0];
    assert_eq!(folder.until_written("told"), format!("pause {child}\ndrain {child}\n"));
    drop(wrapped);
    rollcall.direct(&agent.id, json!({ "action": "pause" }));
    let _wrapped = run(&[]);
    let before = heartbeats();
    eventually("three more heartbeats", || (heartbeats() > before + 2).then_some(()));
    assert!(!rollcall.is_acknowledged(&agent.id));
}

#[test]
fn a_name_and_a_token_make_the_agent_and_its_key_is_kept() {
    let (rollcall, folder) = (Rollcall::with(&[("Registration", "enrollment")]), Folder::new());
    let token = rollcall.enrollment_token();
    let run = |token: &str, name: &str| {
        let mut wrapped = folder.rollcall(&rollcall.url);
        sh(wrapped.env("ROLLCALL_ENROLLMENT_TOKEN", token).args(["run", "--name", name]), "sleep 0.2")
    };
    assert_eq!(run(&token, "näme/1").ends().code(), Some(0));
    let agent = rollcall.named("näme/1");
    let id = agent["id"].as_str().expect("an id");
    assert_eq!((&agent["status"], rollcall.events(id, "process.exited").len()), (&json!("offline"), 1));
    let state = folder.file(".local/state/rollcall");
    let kept = fs::read_dir(&state)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect::<Vec<_>>();
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((kept.len(), mode(&state), mode(&kept[0])), (1, 0o700, 0o600), "{kept:?}");
    // By the kept key alone.
    assert_eq!(run("", "näme/1").ends().code(), Some(0));
    assert_eq!(rollcall.events(id, "process.exited").len(), 2);
    // An operator's new key makes the kept one useless: the token still finds the agent.
    rollcall.call("POST", &format!("/api/v1/agents/{id}/rotate-key"), json!({ "overlap_seconds": 0 }));
    let mut wrapped = run(&token, "näme/1");
    wrapped.says("could not say the event process.exited at the end: the agent's own key is not known");
    assert_eq!(wrapped.ends().code(), Some(0));
    assert_eq!(rollcall.events(id, "agent.offline").len(), 3);
    // Where a token is asked for, a name alone is refused.
    run("", "other").says("heartbeat refused: HTTP 401: ");
}

#[test]
fn without_a_place_for_its_key_a_name_and_a_token_are_enough() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    fs::write(folder.file("plain"), "no folder").expect("a file");
    let mut wrapped = folder.rollcall(&rollcall.url);
    wrapped.env("ROLLCALL_ENROLLMENT_TOKEN", rollcall.enrollment_token());
    let wrapped = wrapped.env("XDG_STATE_HOME", folder.file("plain")).args(["run", "--name", "placeless"]);
    let mut wrapped = sh(wrapped, "exit 0");
    wrapped.says("the agent's key is not read: ");
    wrapped.says("the agent's key is not kept: ");
    assert_eq!((wrapped.ends().code(), &rollcall.named("placeless")["status"]), (Some(0), &json!("offline")));
}

#[test]
fn where_anybody_may_register_a_name_is_enough() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let run = || sh(folder.rollcall(&rollcall.url).args(["run", "--name", "demo"]), "exit 0");
    assert_eq!((run().ends().code(), run().ends().code()), (Some(0), Some(0)));
    let agents = rollcall.get("/api/v1/agents?name=demo");
    assert_eq!((&agents["total"], &agents["items"][0]["status"]), (&json!(1), &json!("offline")));
    let id = agents["items"][0]["id"].as_str().expect("an id");
    assert_eq!(rollcall.events(id, "process.exited").len(), 2);
}

#[test]
fn the_readmes_line_makes_an_agent_of_any_program() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let line = readme.lines().find(|line| line.starts_with("rollcall run ")).expect("the line");
    fs::write(folder.file("nightly.sh"), "#!/bin/sh\necho works\nexit 0\n").expect("a program");
    fs::set_permissions(folder.file("nightly.sh"), fs::Permissions::from_mode(0o700)).expect("a mode");
    let binary = Path::new(env!("CARGO_BIN_EXE_rollcall")).parent().expect("a folder");
    let pasted = format!("PATH={}:$PATH\n{line}", binary.display());
    let ran = folder.by("bash", &rollcall.url).args(["-c", &pasted]).output().expect("bash");
    assert_eq!((ran.status.code(), String::from_utf8_lossy(&ran.stdout).as_ref()), (Some(0), "works\n"));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
    assert_eq!(rollcall.named("nightly")["status"], "offline");
}

#[test]
fn who_waits_to_be_let_in_goes_on_slowly_with_a_line_each() {
    let (rollcall, folder) = (Rollcall::with(&[("Approval", "operator")]), Folder::new());
    let wrapped = sh(folder.rollcall(&rollcall.url).args(["run", "--name", "pending"]), "sleep 1000");
    let line = wrapped
        .says("heartbeat refused: HTTP 403: the agent is pending: an operator can approve it; next try in ");
    let pause = line.rsplit_once("in ").and_then(|(_, pause)| pause.strip_suffix(" s")).expect("a pause");
    assert!((54.0..=60.0).contains(&pause.parse::<f64>().expect("a number")), "{line}");
}

#[test]
fn a_pause_that_an_answer_asks_for_is_kept() {
    let folder = Folder::new();
    let url = answering(|n, _request| match n {
        0 => "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned(),
    });
    let wrapped = sh(folder.rollcall(&url).env("ROLLCALL_KEY", KEY).arg("run"), "sleep 1000");
    wrapped.says("heartbeat failed: HTTP 429, and not from Rollcall; next try in 300");
}

#[test]
fn neither_a_redirect_nor_an_answer_of_another_nor_an_echoed_key_gets_far() {
    let folder = Folder::new();
    let (requests, elsewhere) = channel();
    let other = answering(move |_, request| {
        requests.send(request.to_owned()).ok();
        "HTTP/1.1 404 Nothing\r\nContent-Length: 0\r\n\r\n".to_owned()
    });
    let url = answering(move |n, request| match n {
        0 => format!("HTTP/1.1 308 Moved\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n"),
        1 => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        _ => {
            let key = request.to_lowercase();
            let key =
                key.split_once("bearer ").map_or("", |(_, rest)| rest.lines().next().unwrap_or_default());
            let body = json!({ "detail": format!("no \u{1b}[2J{key}") }).to_string();
            format!("HTTP/1.1 503 Away\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    });
    let wrapped = sh(folder.rollcall(&url).env("ROLLCALL_KEY", KEY).arg("run"), "sleep 1000");
    wrapped.says("heartbeat failed: HTTP 308, and not from Rollcall; next try in ");
    wrapped.says("heartbeat failed: an answer that is not Rollcall's; next try in ");
    wrapped.says("heartbeat failed: HTTP 503: no  [2J(a secret); next try in ");
    assert_eq!(elsewhere.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_key_that_cannot_be_one_is_not_kept() {
    let folder = Folder::new();
    let url = answering(|_, _| {
        let config = json!({ "interval_seconds": 60 });
        let body = json!({ "heartbeat_config": config, "agent_token": "two\nlines" }).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let mut command = folder.rollcall(&url);
    let command = command.env("ROLLCALL_ENROLLMENT_TOKEN", KEY).args(["run", "--name", "named"]);
    let mut wrapped = sh(command, "exit 0");
    wrapped.says("could not say the event process.exited at the end: the agent's own key is not known");
    assert_eq!(wrapped.ends().code(), Some(0));
    assert!(!folder.file(".local").exists());
}

#[test]
fn what_is_on_this_machine_is_not_asked_by_a_proxy() {
    let folder = Folder::new();
    let proxy = answering(|_, _| "HTTP/1.1 418 Proxy\r\nContent-Length: 0\r\n\r\n".to_owned());
    let mut wrapped = folder.rollcall(NOWHERE);
    let wrapped = wrapped.env("ROLLCALL_KEY", KEY).envs([("HTTP_PROXY", &proxy), ("ALL_PROXY", &proxy)]);
    sh(wrapped.arg("run"), "sleep 1000").says("heartbeat failed: io: Connection refused");
}

#[test]
fn a_child_that_stood_still_before_is_paused_and_is_woken_to_stop() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "stopped", "heartbeat_config": { "interval_seconds": 1 } }));
    let mut wrapped = folder.rollcall(&rollcall.url);
    let wrapped = wrapped.env("ROLLCALL_KEY", &agent.key).args(["run", "--pause", "signal"]);
    let mut wrapped = sh(wrapped, "echo $$ > pid; kill -STOP $$; echo on > went; kill -STOP $$; sleep 1000");
    let child: u32 = folder.until_written("pid").trim().parse().expect("a number");
    let stands = || eventually("a child that stands", || (process_state(child) == Some('T')).then_some(()));
    stands();
    // The wrapper has seen it.
    rollcall.until_status(&agent.id, "healthy");
    rollcall.direct(&agent.id, json!({ "action": "pause" }));
    eventually("the acknowledgement", || rollcall.is_acknowledged(&agent.id).then_some(()));
    rollcall.direct(&agent.id, json!({ "action": "run" }));
    folder.until_written("went");
    stands();
    rollcall.direct(&agent.id, json!({ "action": "stop", "deadline_seconds": 60 }));
    assert_eq!(wrapped.ends().code(), Some(143));
}

#[test]
fn who_obeys_an_older_directive_late_does_not_take_back_the_newer() {
    let folder = Folder::new();
    let (bodies, sent) = channel();
    let url = answering(move |n, request| {
        bodies.send(request.rsplit("\r\n").next().unwrap_or_default().to_owned()).ok();
        let (version, action) = if n == 0 { (1, "pause") } else { (2, "drain") };
        let directive = json!({ "version": version, "action": action });
        let body =
            json!({ "heartbeat_config": { "interval_seconds": 1 }, "directive": directive }).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let slow = "test $ROLLCALL_DIRECTIVE = drain && exit; until test -e go; do sleep 0.05; done; echo > gone";
    let mut wrapped = folder.rollcall(&url);
    let wrapped = wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--on-directive", slow]);
    let _wrapped = sh(wrapped, "sleep 1000");
    let mut acknowledged = std::iter::repeat_with(|| {
        let body = sent.recv_timeout(support::PATIENCE).expect("a heartbeat");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["report"]["ack_directive"].clone()
    });
    assert!(acknowledged.by_ref().any(|version| version == 2));
    fs::write(folder.file("go"), "").expect("a file");
    folder.until_written("gone");
    assert_eq!(acknowledged.skip(2).take(2).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn wrappers_of_one_name_that_start_at_once_are_one_agent() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let start = || sh(folder.rollcall(&rollcall.url).args(["run", "--name", "demo"]), "sleep 1");
    let mut all = std::iter::repeat_with(start).take(8).collect::<Vec<_>>();
    assert!(all.iter_mut().all(|wrapped| wrapped.ends().code() == Some(0)));
    assert_eq!(rollcall.get("/api/v1/agents?name=demo")["total"], 1);
}

#[test]
fn the_childs_file_has_a_place_also_without_a_runtime_folder() {
    let folder = Folder::new();
    let mut wrapped = folder.rollcall(NOWHERE);
    wrapped.env("ROLLCALL_KEY", KEY).envs([("XDG_RUNTIME_DIR", "/no/such/folder"), ("TMPDIR", ".")]);
    let mut wrapped = sh(wrapped.arg("run"), "cd /; test -f \"$ROLLCALL_STATE\"");
    assert_eq!(wrapped.ends().code(), Some(0));
}

#[test]
fn no_secret_is_in_the_process_list() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let token = rollcall.enrollment_token();
    let mut wrapped = folder.rollcall(&rollcall.url);
    let wrapped =
        wrapped.env("ROLLCALL_ENROLLMENT_TOKEN", &token).args(["run", "--name", "shy", "--die-with-me"]);
    let wrapped = sh(wrapped, "sleep 1000");
    rollcall.named("shy");
    let child = children(wrapped.pid())[0];
    for pid in [wrapped.pid(), child] {
        let list = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
        assert!(!list.contains(&token) && !list.contains("rce_"), "{list}");
    }
}

#[test]
fn a_hundred_megabytes_lose_no_byte_also_for_a_slow_reader() {
    let folder = Folder::new();
    let mut wrapped = folder.rollcall(NOWHERE);
    let wrapped = wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--progress", "output", "--tail", "100"]);
    let mut wrapped = sh(wrapped, "head -c 100000000 /dev/zero; printf end; printf 'no line' >&2; exit 2");
    let mut stdout = wrapped.child.stdout.take().expect("standard output");
    let (mut total, mut last) = (0, Vec::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        if total > 99_900_000 && total < 99_990_000 {
            // The child has written all of it before this reader takes the rest.
            thread::sleep(std::time::Duration::from_millis(2500));
        }
        match stdout.read(&mut buffer).expect("bytes") {
            0 => break,
            length => {
                total += length;
                last = buffer[..length].to_vec();
            }
        }
    }
    assert_eq!(total, 100_000_003);
    assert!(last.ends_with(b"end"));
    assert_eq!(wrapped.ends().code(), Some(2));
}

#[test]
fn a_grandchild_that_holds_the_pipes_holds_up_nobody() {
    let folder = Folder::new();
    let mut wrapped = folder.rollcall(NOWHERE);
    let wrapped = wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--progress", "output"]);
    let mut wrapped = sh(wrapped, "sleep 100 & echo $! > pid; echo out; exit 0");
    assert_eq!(wrapped.ends().code(), Some(0));
    let grandchild = folder.until_written("pid").trim().parse().expect("a number");
    assert!(process_state(grandchild).is_some());
    signal(grandchild, "KILL");
}

#[test]
fn a_reader_that_goes_away_is_seen_by_the_child() {
    let folder = Folder::new();
    let mut wrapped = folder.rollcall(NOWHERE);
    let wrapped = wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--progress", "output"]);
    let mut wrapped = Running::start(wrapped.args(["--", "yes"]));
    drop(wrapped.child.stdout.take());
    assert_eq!(wrapped.ends().code(), Some(128 + 13));
}

#[test]
fn progress_is_what_is_written_or_a_file_that_is_touched() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    for (name, how) in [("writes", "output"), ("touches", "touched")] {
        let agent = rollcall.agent(json!({ "name": name }));
        fs::write(folder.file("touched"), "").expect("a file");
        let mut wrapped = folder.rollcall(&rollcall.url);
        let _wrapped =
            sh(wrapped.env("ROLLCALL_KEY", &agent.key).args(["run", "--progress", how]), "sleep 1000");
        rollcall.until_status(&agent.id, "healthy");
        let detail = rollcall.get(&format!("/api/v1/agents/{}?detail=true", agent.id));
        assert!(detail["detail"]["stalls_at"].is_string(), "{detail}");
    }
}

#[test]
fn a_library_of_the_child_speaks_through_the_wrapper_which_is_the_one_sender() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "both", "heartbeat_config": { "interval_seconds": 1 } }));
    rollcall.direct(&agent.id, json!({ "action": "drain" }));
    // What a library does, in a shell: read the directive, and obey it.
    let script = r#"
        until grep -q '"action":"drain"' "$ROLLCALL_STATE"; do sleep 0.05; done
        version=$(sed 's/.*"version":\([0-9]*\).*/\1/' "$ROLLCALL_STATE")
        report="{\"pid\": $$, \"status\": \"degraded\", \"progress_age_seconds\": 5.5, \"ack_directive\": $version}"
        echo "$report" > "$ROLLCALL_STATE.0123456789abcdef.new"
        mv "$ROLLCALL_STATE.0123456789abcdef.new" "$ROLLCALL_STATE.0123456789abcdef"
        echo "$ROLLCALL_BOOT_ID $ROLLCALL_STATE" > told
        exec sleep 1000"#;
    let mut wrapped = sh(folder.rollcall(&rollcall.url).env("ROLLCALL_KEY", &agent.key).arg("run"), script);
    rollcall.until_status(&agent.id, "degraded");
    eventually("the acknowledgement", || rollcall.is_acknowledged(&agent.id).then_some(()));
    let detail = rollcall.get(&format!("/api/v1/agents/{}?detail=true", agent.id));
    assert!(detail["detail"]["stalls_at"].is_string(), "{detail}");
    let told = folder.until_written("told");
    let (boot_id, file) = told.trim().split_once(' ').expect("two words");
    assert_eq!(boot_id.len(), 16);
    let mode = |path: &Path| fs::metadata(path).expect("it").permissions().mode() & 0o777;
    let shared = Path::new(file).parent().expect("a folder").to_owned();
    assert_eq!((mode(&shared), mode(Path::new(file))), (0o700, 0o600));
    wrapped.signal("TERM");
    wrapped.ends();
    assert!(!shared.exists());
}

#[test]
fn wrapper_and_python_module_together_are_one_sender() {
    let (rollcall, folder) = (Rollcall::start(), Folder::new());
    let agent = rollcall.agent(json!({ "name": "module", "heartbeat_config": { "interval_seconds": 1 } }));
    let script = format!(
        "import os, signal, time\n\
         signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         from rollcall_heartbeat import Heartbeat\n\
         with Heartbeat({:?}, {:?}) as heartbeat:\n\
         \x20   heartbeat.status = 'degraded'\n\
         \x20   while True:\n\
         \x20       heartbeat.check()\n\
         \x20       time.sleep(0.05)\n",
        rollcall.url, agent.key
    );
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python/src");
    let mut command = folder.rollcall(&rollcall.url);
    command.env("ROLLCALL_KEY", &agent.key).env("PYTHONPATH", module);
    let mut wrapped = Running::start(command.args(["run", "--", "python3", "-c", &script]));
    rollcall.until_status(&agent.id, "degraded");
    rollcall.direct(&agent.id, json!({ "action": "stop" }));
    let code = wrapped.ends().code();
    // `check()` raised `Stop`, which nobody caught.
    assert_eq!((code, rollcall.status(&agent.id)), (Some(1), "offline".to_owned()));
    assert!(rollcall.is_acknowledged(&agent.id));
    // Its own good-bye, and that of the wrapper, would be two.
    assert_eq!(rollcall.events(&agent.id, "agent.offline").len(), 1);
    assert_eq!(rollcall.events(&agent.id, "process.exited").len(), 1);
}

#[test]
fn what_a_library_used_is_reported_until_it_is_accepted_and_not_again() {
    let folder = Folder::new();
    let (bodies, sent) = channel();
    let url = answering(move |n, request| {
        bodies.send(request.rsplit("\r\n").next().unwrap_or_default().to_owned()).ok();
        let body = json!({ "heartbeat_config": { "interval_seconds": 1 } }).to_string();
        let accepted = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if n == 0 { "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n".to_owned() } else { accepted }
    });
    let script = r#"
        echo '{"pid": 1, "usage": {"tokens": 7, "cost_usd": 0.000003}}' > "$ROLLCALL_STATE.0123456789abcdef"
        until test -e more; do sleep 0.05; done
        echo '{"pid": 2, "usage": {"tokens": 2, "cost_usd": 0}}' > "$ROLLCALL_STATE.0123456789abcdee"
        exec sleep 1000"#;
    let _wrapped = sh(folder.rollcall(&url).env("ROLLCALL_KEY", KEY).arg("run"), script);
    let mut reports = std::iter::repeat_with(|| {
        let body = sent.recv_timeout(support::PATIENCE).expect("a heartbeat");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["report"].clone()
    });
    // The first may have been faster than the child, and is refused in any case.
    let first = reports.next().expect("a heartbeat");
    let said = reports.by_ref().find(|report| report.get("usage").is_some()).expect("usage");
    assert_eq!(said["usage"], json!({ "tokens": 7, "cost_usd": 0.000_003 }));
    assert_eq!((said["boot_id"].as_str().map(str::len), &said["boot_id"]), (Some(16), &first["boot_id"]));
    assert!(reports.next().expect("a heartbeat").get("usage").is_none());
    fs::write(folder.file("more"), "").expect("a file");
    let said = reports.find(|report| report.get("usage").is_some()).expect("more usage");
    assert_eq!(said["usage"], json!({ "tokens": 2, "cost_usd": 0.0 }));
}

#[test]
fn orphans_are_waited_for_by_a_subreaper_and_by_process_1() {
    let folder = Folder::new();
    // The orphan ends while the child still runs; the child says what became of it.
    let script =
        "(sleep 0.1 & echo $! > orphan); sleep 0.6; test -e /proc/$(cat orphan)/stat && exit 1; exit 0";
    let mut wrapped = folder.rollcall(NOWHERE);
    let mut wrapped = sh(wrapped.env("ROLLCALL_KEY", KEY).args(["run", "--subreaper"]), script);
    assert_eq!(wrapped.ends().code(), Some(0));
    let unshared = |script: &str| {
        let mut command = folder.by("unshare", NOWHERE);
        command.env("ROLLCALL_KEY", KEY);
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
        command
            .args([env!("CARGO_BIN_EXE_rollcall"), "run", "--", "sh", "-c", script])
            .output()
            .expect("unshare")
    };
    let ran = unshared(script);
    if ran.status.code() == Some(1) && String::from_utf8_lossy(&ran.stderr).contains("unshare:") {
        eprintln!("skipped: this machine allows no namespaces: {}", String::from_utf8_lossy(&ran.stderr));
        return;
    }
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    // Process 1 has no default for TERM: without a handler it would not even hear it.
    let ran = unshared("kill -TERM 1; sleep 1000");
    assert_eq!(ran.status.code(), Some(143), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn at_a_terminal_the_child_reads_it_and_ctrl_z_stops_and_continues_both() {
    let folder = Folder::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal.py");
    let mut command = folder.by("python3", NOWHERE);
    command.env("ROLLCALL_KEY", KEY).arg(script).arg(env!("CARGO_BIN_EXE_rollcall"));
    let Ok(ran) = command.stdin(Stdio::null()).output() else {
        eprintln!("skipped: python3 is not there");
        return;
    };
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
}

#[test]
fn who_looks_for_the_local_system_is_told_its_name() {
    let ran = Folder::new().rollcall(NOWHERE).arg("--memory").output().expect("an executable");
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("rollcall-local now"));
}
