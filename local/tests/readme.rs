//! README and tutorial do what they say: their curl lines and the use of the Python client, run as a reader would run them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
const TUTORIAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tutorial.md"));

// ---- README ----

/// The promise, as a newcomer sees it kept; and then what an operator does about it.
#[test]
fn an_agent_that_is_killed_is_announced_and_an_operator_sees_to_it() {
    let folder = Folder::new();
    let blocks = blocks(README, "## See it work");
    let [("sh", start), ("sh", paste), ("text", shown), ("text", console)] = blocks[..] else {
        panic!("{blocks:#?}")
    };
    let arguments = start.trim().strip_prefix("cargo run -- ").expect("cargo run");
    let arguments: Vec<&str> = arguments.split(' ').chain(["--port", "0"]).collect();
    let mut rollcall = Rollcall::start_in(&folder.0, &arguments);

    let pasted = run_in(&folder.0, "bash", &[], &at(&rollcall.url, paste));
    assert_shown(shown, &pasted.output);
    assert!(!pasted.errors.contains("curl"), "{}", pasted.errors);
    let (died, _) = console.split_once('(').expect("an id");
    let line = rollcall.lines.next().expect("its output").expect("a line");
    assert!(line.starts_with(died), "{line}");

    let [("sh", paste)] = self::blocks(README, "## For operators")[..] else { panic!("one block") };
    let export = rollcall.said("export ");
    let pasted = run("bash", &[], &format!("{export}\n{}", at(&rollcall.url, paste)));
    assert_eq!(pasted.errors, "");
    let answers: Vec<Value> =
        pasted.output.lines().map(|line| serde_json::from_str(line).expect("an answer")).collect();
    assert_eq!(answers.len(), 5, "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.get("detail").is_none()), "{answers:#?}");
    assert_eq!(answers[0]["items"][0]["name"], "doomed");
    assert_eq!(answers[1]["items"][0]["payload"]["reason"], "silent");
    assert_eq!(answers[4]["agent_token"].as_str().map(str::len), Some(48));
}

// ---- The tutorial ----

#[test]
fn the_agents_lines_answer_as_shown() {
    assert_eq!(agents_lines(""), 0);
}

#[test]
fn the_operators_lines_answer_as_shown() {
    operators_lines("");
}

/// Whoever follows the tutorial notices nothing of the features, but a key in the answer to its heartbeat.
#[test]
fn the_lines_answer_as_shown_with_every_feature_on() {
    assert_eq!(agents_lines(EQUIP), 1);
    operators_lines(EQUIP);
}

/// Once the agent of a section is let in: a process, an age of its progress, a promise, a budget that is used up, a limit of
/// its own, a directive, a silence and a channel.
const EQUIP: &str = r#"
call() { curl -sf -o /dev/null -X "${4-POST}" "$url/api/v1/$1" -H "authorization: Bearer $2" -d "$3"; }
if [ -n "${key-}" ] && [ -z "${equipped-}" ] && call agent/heartbeat "$key" '{}'
then
    id=${id-$(echo "$answer" | sed 's/.*"agentId":"\([^"]*\)".*/\1/')}
    call "agents/$id" "$ROLLCALL_OPERATOR_TOKEN" '{"budget": {"tokens_per_day": 1}, "rate_limit_per_minute": 60}' PATCH &&
    call "agents/$id/directive" "$ROLLCALL_OPERATOR_TOKEN" '{"action": "drain"}' &&
    call silences "$ROLLCALL_OPERATOR_TOKEN" '{"all": true, "for_seconds": 3600}' &&
    call channels "$ROLLCALL_OPERATOR_TOKEN" '{"kind": "webhook", "url": "https://192.0.2.1/"}' &&
    call agent/heartbeat "$key" '{"report": {"boot_id": "b0b0b0b0b0b0b0b0", "progress_age_seconds": 7,
        "next_beat_in_seconds": 3600, "usage": {"tokens": 2, "cost_usd": 0.1}}}' &&
    equipped=yes || echo "it could not be equipped"
fi
"#;

/// Runs the agent's section, with these lines after each step; how many answers had a directive.
fn agents_lines(after_each: &str) -> usize {
    let rollcall = Rollcall::start();
    let (mut same, mut directives) = (BTreeMap::new(), 0);
    let steps = walk_through(&rollcall.url, "## An agent", &rollcall.said("export "), after_each);
    for step in &steps {
        match &step.shown {
            None => assert_eq!(step.printed, "", "after {}", step.lines),
            Some(shown) => {
                let shown = serde_json::from_str(shown).expect("an answer in JSON");
                let mut printed: Value = serde_json::from_str(&step.printed)
                    .unwrap_or_else(|error| panic!("{error}: {:?} after {}", step.printed, step.lines));
                let data = printed.get_mut("data").and_then(Value::as_object_mut);
                directives += usize::from(data.is_some_and(|data| data.remove("directive").is_some()));
                assert_alike(&shown, &printed, &mut same, &step.lines);
            }
        }
    }
    assert_eq!(steps.iter().filter(|step| step.shown.is_some()).count(), 5);
    directives
}

/// Runs the operator's section, with these lines after each step.
fn operators_lines(after_each: &str) {
    let rollcall = Rollcall::start();
    let steps = walk_through(&rollcall.url, "## An operator", &rollcall.said("export "), after_each);
    for step in &steps {
        assert_shown(step.shown.as_deref().unwrap_or_default(), &step.printed);
    }
    assert_eq!(steps.iter().filter(|step| step.shown.is_some()).count(), 6);
}

/// The tutorial's words about closed doors: the printed tokens open them.
#[test]
fn the_printed_tokens_open_both_doors() {
    let rollcall = Rollcall::start_with(&["--registration", "enrollment", "--approval", "operator"]);
    let url = &rollcall.url;
    let closed = format!("curl -s {url}/api/agents/register -d '{{\"name\": \"researcher-1\"}}'");
    let closed: Value = serde_json::from_str(&run("bash", &[], &closed).output).expect("an answer");
    assert_eq!(closed["error"]["message"], "an enrollment token is required in X-Agent-Token");

    let curl = rollcall.said("curl ");
    let registered: Value = serde_json::from_str(&run("bash", &[], &curl).output).expect("an answer");
    assert_eq!(registered["data"]["status"], "pending", "{curl}");
    let verify = format!(
        "curl -s {url}/api/agents/verify -H 'authorization: Bearer {}' -d '{{\"apiKey\": {}}}'",
        rollcall.said("operator token").trim_start_matches("operator token").trim(),
        registered["data"]["apiKey"],
    );
    let verified: Value = serde_json::from_str(&run("bash", &[], &verify).output).expect("an answer");
    assert_eq!(verified["data"]["status"], "active", "{verified}");
}

/// One block of shell lines, what the page shows below it, and what the lines printed.
struct Step {
    lines: String,
    shown: Option<String>,
    printed: String,
}

/// Runs a section's blocks in one bash, one after the other, against the system at `url`, and lines of its own after each.
fn walk_through(url: &str, heading: &str, first: &str, after_each: &str) -> Vec<Step> {
    const END_OF_STEP: &str = "-- end of step --";
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in blocks(TUTORIAL, heading) {
        match language {
            "sh" => steps.push(Step { lines: text.to_owned(), shown: None, printed: String::new() }),
            "json" | "text" => {
                steps.last_mut().expect("lines before the answer").shown = Some(text.to_owned());
            }
            other => panic!("a block of {other:?} under {heading}"),
        }
    }
    let say_so = format!("{after_each}\necho '{END_OF_STEP}'\n");
    let pasted: String = steps.iter().flat_map(|step| [step.lines.as_str(), &say_so]).collect();
    let printed = run("bash", &[], &format!("{first}\n{}", at(url, &pasted)));
    assert_eq!(printed.errors, "");
    let printed: Vec<&str> = printed.output.split(&format!("{END_OF_STEP}\n")).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{printed:?}");
    for (step, printed) in steps.iter_mut().zip(printed) {
        printed.trim_end().clone_into(&mut step.printed);
    }
    steps
}

/// A page's lines, for a system that listens at `url`.
#[track_caller]
fn at(url: &str, lines: &str) -> String {
    let default = "url=http://127.0.0.1:3000\n";
    assert_eq!(lines.matches(default).count(), 1, "the page says where the system listens");
    lines.replace(default, &format!("url={url}\n"))
}

/// Each line begins as the page shows it, up to the page's `…`, but for ids, keys and times.
#[track_caller]
fn assert_shown(shown: &str, printed: &str) {
    let mask = |text: &str| {
        let pieces = text.split('"').map(|piece| if is_made_anew(piece) { "made anew" } else { piece });
        pieces.collect::<Vec<_>>().join("\"")
    };
    let printed: Vec<String> = printed.lines().map(mask).collect();
    let shown: Vec<String> =
        shown.lines().map(|line| mask(line.split('…').next().unwrap_or_default().trim_end())).collect();
    assert_eq!(printed.len(), shown.len(), "{printed:#?}");
    for (printed, shown) in printed.iter().zip(&shown) {
        assert!(printed.starts_with(shown), "{printed}\n{shown}");
    }
}

/// The page's answer and the real one are the same, but for ids, keys and times; and what is the same id, key or
/// time on the page is the same in reality.
#[track_caller]
fn assert_alike(shown: &Value, real: &Value, same: &mut BTreeMap<String, String>, lines: &str) {
    match (shown, real) {
        (Value::Object(shown), Value::Object(real)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(shown), keys(real), "after {lines}");
            for (key, shown) in shown {
                assert_alike(shown, &real[key], same, lines);
            }
        }
        (Value::String(shown), Value::String(real)) if is_made_anew(shown) => {
            assert_eq!(shown.len(), real.len(), "after {lines}");
            assert!(is_made_anew(real), "{real:?} after {lines}");
            assert_eq!(same.entry(shown.clone()).or_insert_with(|| real.clone()), real, "after {lines}");
        }
        _ => assert_eq!(shown, real, "after {lines}"),
    }
}

/// Whether a text looks like an id, a key or a time: what no two runs have in common.
fn is_made_anew(text: &str) -> bool {
    let text = text.trim_start_matches("rce_").trim_start_matches("rco_");
    text.len() >= 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-:.TZ".contains(&byte))
}

// ---- The Python client ----

#[test]
fn the_pages_use_of_the_python_client_works() {
    const CLIENTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/clients.md"));
    let rollcall = Rollcall::start();
    for (page, heading) in [(README, "## An agent in Python"), (CLIENTS, "## Python")] {
        let agent = verified_agent(&rollcall.url);
        let blocks = blocks(page, heading);
        let python: Vec<_> = blocks.iter().filter(|(language, _)| *language == "python").collect();
        let [(_, usage)] = python[..] else { panic!("one block of Python under {heading}") };
        let usage =
            usage.replace("http://127.0.0.1:3000", &rollcall.url).replace("the agent's API key", &agent);
        let path = concat!(
            "import sys\nsys.path.insert(0, '",
            env!("CARGO_MANIFEST_DIR"),
            "/../clients/python/src')\n"
        );
        let log = "import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n";
        let ran = run("python3", &["-"], &format!("{path}{log}{usage}"));
        assert_eq!((ran.output.as_str(), ran.errors.as_str()), ("", "heartbeats are accepted\n"));
    }
}

/// The key of an agent that the tutorial registered and verified.
fn verified_agent(url: &str) -> String {
    let steps = walk_through(url, "## An agent", "", "");
    let registered: Value = steps
        .iter()
        .find(|step| step.shown.is_some())
        .and_then(|step| serde_json::from_str(&step.printed).ok())
        .expect("an answer");
    registered["data"]["apiKey"].as_str().expect("a key").to_owned()
}

// ---- The pages ----

#[test]
fn every_link_to_a_file_of_the_repository_leads_somewhere() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs");
    let docs = docs.map(|entry| entry.expect("a page").path());
    let docs = docs.filter(|page| page.extension().is_some_and(|kind| kind == "md"));
    for page in docs.chain([root.join("README.md"), root.join("CHANGELOG.md")]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let target =
                if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            let problem = format!("{}: {link}", page.display());
            assert!(target.exists(), "{problem}");
            let target = if heading.is_empty() { continue } else { std::fs::read_to_string(target) };
            assert!(headings(&target.expect(&problem)).any(|it| it == heading), "{problem}");
        }
    }
}

/// A page's headings, as links name them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles =
        text.lines().filter_map(|line| line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' '));
    titles.map(|title| {
        let kept = title.chars().filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.map(|it| if it == ' ' { '-' } else { it.to_ascii_lowercase() }).collect()
    })
}

// ---- Tools ----

/// The fenced blocks under a heading of a page, each with its language.
fn blocks<'a>(page: &'a str, heading: &str) -> Vec<(&'a str, &'a str)> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let fences: Vec<&str> = section.split("```").collect();
    fences.iter().skip(1).step_by(2).map(|block| block.split_once('\n').expect("a language")).collect()
}

/// A folder of a test's own, in which the repository's clients are, too. It goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients");
        std::os::unix::fs::symlink(clients, folder.join("clients")).expect("a link");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The real executable.
struct Rollcall {
    process: Child,
    url: String,
    greeting: Vec<String>,
    /// Its output after the greeting.
    lines: Lines<BufReader<ChildStdout>>,
}

impl Rollcall {
    /// Over an engine in memory.
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(Path::new("."), &[&["--memory", "--port", "0"], arguments].concat())
    }

    fn start_in(folder: &Path, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rollcall-local"))
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("rollcall starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let greeting = lines.by_ref().map(|line| line.expect("a line").trim().to_owned());
        let greeting: Vec<String> = greeting.take_while(|line| line != "Ctrl-C stops it.").collect();
        let url = greeting.first().and_then(|line| line.strip_prefix("Rollcall listens on "));
        Self { url: url.expect("where it listens").to_owned(), process, greeting, lines }
    }

    /// The line of its greeting that begins like this.
    fn said(&self, beginning: &str) -> String {
        let said = self.greeting.iter().find(|line| line.starts_with(beginning));
        said.unwrap_or_else(|| panic!("no {beginning:?} in {:#?}", self.greeting)).clone()
    }
}

impl Drop for Rollcall {
    fn drop(&mut self) {
        self.process.kill().expect("rollcall ends");
        self.process.wait().expect("rollcall has ended");
    }
}

struct Ran {
    output: String,
    errors: String,
}

/// Runs a program that reads `input`.
fn run(program: &str, arguments: &[&str], input: &str) -> Ran {
    run_in(Path::new("."), program, arguments, input)
}

fn run_in(folder: &Path, program: &str, arguments: &[&str], input: &str) -> Ran {
    let mut process = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need {program} on the PATH: {error}"));
    process.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
    let ended = process.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let ran = Ran { output: text(ended.stdout), errors: text(ended.stderr) };
    assert!(ended.status.success(), "{program}: {}\n{}{}", ended.status, ran.output, ran.errors);
    ran
}
