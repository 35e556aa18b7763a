//! Tokens, channels and silences.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use ureq::http::Method;

use super::api::Failure;
use super::table::{Cell, Colour, Table};
use super::when::{self, from_now, short};
use super::{Common, line, text};

#[derive(Subcommand)]
pub enum Verb {
    /// List tokens; mint, look at and delete them
    #[command(after_help = "Example: rollcall tokens mint enrollment --all-boards --expires 7d")]
    #[command(args_conflicts_with_subcommands = true)]
    Tokens {
        #[command(subcommand)]
        verb: Option<Tokens>,
        #[command(flatten)]
        common: Common,
    },
    /// List channels; add, test, change, pause, resume and remove them, and send again
    #[command(after_help = "Example: rollcall channels add slack --url-file slack-url --label ops")]
    #[command(args_conflicts_with_subcommands = true)]
    Channels {
        #[command(subcommand)]
        verb: Option<Channels>,
        #[command(flatten)]
        common: Common,
    },
    /// Leave an agent, a board or all untold for a time
    #[command(after_help = "Example: rollcall silence researcher-1 --for 2h --reason \"new model\"")]
    Silence {
        /// Id or name
        #[arg(required_unless_present_any = ["board", "all"])]
        agent: Option<String>,
        /// All agents of this board
        #[arg(long, value_name = "ID", conflicts_with_all = ["agent", "all"])]
        board: Option<String>,
        /// All agents
        #[arg(long, conflicts_with = "agent")]
        all: bool,
        /// For how long
        #[arg(long = "for", value_name = "TIME", value_parser = when::seconds)]
        seconds: u64,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List silences, or end one
    #[command(after_help = "Example: rollcall silences --end 01a2…")]
    Silences {
        /// End this one
        #[arg(long, value_name = "ID")]
        end: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Subcommand)]
pub enum Tokens {
    /// Make a token, and print it: this once
    #[command(
        after_help = "Example: rollcall tokens mint operator --role viewer --label wall > viewer-token"
    )]
    Mint(Mint),
    /// The token that this terminal uses, and what it may do
    #[command(name = "self", after_help = "Example: rollcall tokens self")]
    Own {
        #[command(flatten)]
        common: Common,
    },
    /// End a token, by its id or label
    #[command(after_help = "Example: rollcall tokens delete wall")]
    Delete {
        /// Id or label
        token: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TokenKind {
    Operator,
    Enrollment,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    Operator,
    Viewer,
}

#[derive(clap::Args)]
pub struct Mint {
    /// What it is for
    kind: TokenKind,
    /// Who has it, or where
    #[arg(long)]
    label: Option<String>,
    /// Until when it is valid
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    expires: Option<u64>,
    /// What an operator's may do
    #[arg(long)]
    role: Option<Role>,
    /// For this board alone
    #[arg(long, value_name = "ID", conflicts_with = "all_boards")]
    board: Option<String>,
    /// For all boards
    #[arg(long)]
    all_boards: bool,
    /// Lets in one agent
    #[arg(long)]
    one_off: bool,
    /// Agents that it creates wait for approval
    #[arg(long)]
    wait_for_approval: bool,
    /// It goes on for the agents of this older enrollment token
    #[arg(long, value_name = "ID")]
    succeeds: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ChannelKind {
    Webhook,
    Slack,
    Discord,
}

#[derive(Subcommand)]
pub enum Channels {
    /// Make a channel; a webhook's secret is printed, this once
    #[command(after_help = "Example: rollcall channels add webhook --url-file - < url")]
    Add {
        /// What listens there
        kind: ChannelKind,
        /// File with its address, which is a secret; - is standard input
        #[arg(long, value_name = "FILE")]
        url_file: PathBuf,
        /// What it is called here
        #[arg(long)]
        label: Option<String>,
        /// Tell it of this board alone
        #[arg(long, value_name = "ID")]
        board: Option<String>,
        /// What to tell it of, and no more; may be given again
        #[arg(long, value_name = "CONCERN")]
        concern: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Send a test
    #[command(after_help = "Example: rollcall channels test ops")]
    Test(Named),
    /// Change a channel; a webhook's new secret is printed, this once
    #[command(after_help = "Examples:\n  rollcall channels set ops --url-file - < url\n  \
        rollcall channels set ops --concern offline --concern error")]
    Set(SetChannel),
    /// Send nothing for now
    #[command(after_help = "Example: rollcall channels pause ops")]
    Pause(Named),
    /// Send again
    #[command(after_help = "Example: rollcall channels resume ops")]
    Resume(Named),
    /// Remove a channel
    #[command(after_help = "Example: rollcall channels remove ops")]
    Remove(Named),
    /// What was sent, and what came of it
    #[command(after_help = "Example: rollcall channels deliveries ops")]
    Deliveries(Named),
    /// Send again what failed, or one message
    #[command(after_help = "Example: rollcall channels redeliver ops --failed-within 1d")]
    Redeliver {
        /// The message's number, as `deliveries` shows it
        #[arg(long, value_name = "SEQ", required_unless_present = "failed_within")]
        seq: Option<u64>,
        /// All that failed within this time
        #[arg(long, value_name = "TIME", value_parser = when::seconds, conflicts_with = "seq")]
        failed_within: Option<u64>,
        #[command(flatten)]
        named: Named,
    },
}

#[derive(clap::Args)]
#[group(id = "settings", required = true, multiple = true, args = ["url_file", "label", "board", "all_boards", "concern",
    "rotate_secret"])]
pub struct SetChannel {
    /// File with its new address, which is a secret; - is standard input
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
    /// What it is called here
    #[arg(long)]
    label: Option<String>,
    /// Tell it of this board alone
    #[arg(long, value_name = "ID", conflicts_with = "all_boards")]
    board: Option<String>,
    /// Tell it of all boards
    #[arg(long)]
    all_boards: bool,
    /// What to tell it of, and no more; may be given again
    #[arg(long, value_name = "CONCERN")]
    concern: Vec<String>,
    /// Give a webhook another secret; the one before stays valid for so long
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    rotate_secret: Option<u64>,
    #[command(flatten)]
    named: Named,
}

impl SetChannel {
    fn run(self) -> Result<(), Failure> {
        let mut body = json!({});
        if let Some(file) = &self.url_file {
            body["url"] = json!(read_url(file)?);
        }
        for (field, value) in [("label", self.label), ("board_id", self.board)] {
            if let Some(value) = value {
                body[field] = json!(value);
            }
        }
        if self.all_boards {
            body["board_id"] = Value::Null;
        }
        if !self.concern.is_empty() {
            body["concerns"] = json!(self.concern);
        }
        if let Some(seconds) = self.rotate_secret {
            body["rotate_secret"] = json!({ "overlap_seconds": seconds });
        }
        let answer = self.named.call(&Method::PATCH, "", Some(&body))?;
        done(&self.named.common, &answer, answer["secret"].as_str().unwrap_or("changed"));
        Ok(())
    }
}

#[derive(clap::Args)]
pub struct Named {
    /// Id or label
    channel: String,
    #[command(flatten)]
    common: Common,
}

impl Named {
    /// Asks for something of the channel.
    fn call(&self, method: &Method, route: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let api = self.common.api()?;
        let id = api.labelled("/api/v1/channels", "channel", &self.channel)?;
        api.call(method, &format!("/api/v1/channels/{id}{route}"), body)
    }
}

impl Verb {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Tokens { verb: None, common } => list_tokens(&common),
            Self::Tokens { verb: Some(verb), .. } => verb.run(),
            Self::Channels { verb: None, common } => list_channels(&common),
            Self::Channels { verb: Some(verb), .. } => verb.run(),
            Self::Silence { agent, board, all, seconds, reason, common } => {
                let api = common.api()?;
                let mut body = json!({ "for_seconds": seconds });
                if let Some(agent) = agent {
                    body["agent_id"] = api.agent(&agent)?["id"].take();
                }
                for (field, value) in [("board_id", board), ("reason", reason)] {
                    if let Some(value) = value {
                        body[field] = json!(value);
                    }
                }
                if all {
                    body["all"] = json!(true);
                }
                let silence = api.post("/api/v1/silences", &body)?;
                if !common.json(&silence) {
                    line(&format!(
                        "silent until {}: {}",
                        short(silence["ends_at"].as_str()),
                        text(&silence["id"])
                    ));
                }
                Ok(())
            }
            Self::Silences { end: Some(id), common } => {
                let id = a_uuid(&id)?;
                let answer = common.api()?.call(&Method::DELETE, &format!("/api/v1/silences/{id}"), None)?;
                done(&common, &answer, "ended");
                Ok(())
            }
            Self::Silences { end: None, common } => list_silences(&common),
        }
    }
}

fn a_uuid(id: &str) -> Result<&str, Failure> {
    let wrong = || Failure::Usage(format!("{id:?} is no id; the list shows them"));
    super::api::is_uuid(id).then_some(id).ok_or_else(wrong)
}

fn done(common: &Common, answer: &Value, word: &str) {
    if !common.json(answer) {
        line(word);
    }
}

fn list_tokens(common: &Common) -> Result<(), Failure> {
    let tokens = common.api()?.get("/api/v1/tokens")?;
    if common.json(&tokens["items"]) {
        return Ok(());
    }
    let mut table = Table::new(["LABEL", "KIND", "ROLE", "BOARD", "USED", "ENDS", "ID"]);
    for token in tokens["items"].as_array().into_iter().flatten() {
        table.row([
            text(&token["label"]).into(),
            text(&token["kind"]).into(),
            text(&token["role"]).into(),
            token["board_id"].as_str().unwrap_or("all").into(),
            from_now(token["last_used_at"].as_str()).into(),
            from_now(token["expires_at"].as_str()).into(),
            text(&token["id"]).into(),
        ]);
    }
    table.print();
    Ok(())
}

fn list_channels(common: &Common) -> Result<(), Failure> {
    let channels = common.api()?.get("/api/v1/channels")?;
    if common.json(&channels["items"]) {
        return Ok(());
    }
    if channels["items"].as_array().is_some_and(Vec::is_empty) {
        line("no channels: `rollcall channels add --help`");
    }
    let mut table = Table::new(["LABEL", "KIND", "STATE", "TARGET", "LAST OK", "ID"]);
    for channel in channels["items"].as_array().into_iter().flatten() {
        let state = text(&channel["state"]);
        let colour = if state == "enabled" { Colour::Green } else { Colour::Yellow };
        table.row([
            text(&channel["label"]).into(),
            text(&channel["kind"]).into(),
            Cell::coloured(state, Some(colour)),
            text(&channel["target"]).into(),
            from_now(channel["last_ok_at"].as_str()).into(),
            text(&channel["id"]).into(),
        ]);
    }
    table.print();
    Ok(())
}

fn list_silences(common: &Common) -> Result<(), Failure> {
    let silences = common.api()?.get("/api/v1/silences")?;
    if common.json(&silences["items"]) {
        return Ok(());
    }
    if silences["items"].as_array().is_some_and(Vec::is_empty) {
        line("no silences");
    }
    let mut table = Table::new(["ENDS", "OF", "ID", "REASON"]);
    for silence in silences["items"].as_array().into_iter().flatten() {
        let of = match (silence["agent_id"].as_str(), silence["board_id"].as_str()) {
            (Some(agent), _) => format!("agent {agent}"),
            (_, Some(board)) => format!("board {board}"),
            _ => "all".to_owned(),
        };
        let ends = from_now(silence["ends_at"].as_str());
        table.row([ends.into(), of.into(), text(&silence["id"]).into(), text(&silence["reason"]).into()]);
    }
    table.print();
    Ok(())
}

impl Tokens {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Mint(mint) => mint.run(),
            Self::Own { common } => {
                let token = common.api()?.get("/api/v1/tokens/self")?;
                if common.json(&token) {
                    return Ok(());
                }
                let mut table = Table::new([]);
                let board = token["board_id"].as_str().unwrap_or("all").to_owned();
                let rows = [
                    ("label", text(&token["label"])),
                    ("role", text(&token["role"])),
                    ("board", board),
                    ("ends", from_now(token["expires_at"].as_str())),
                    ("id", text(&token["id"])),
                ];
                for (key, value) in rows {
                    table.row([Cell::coloured(key, Some(Colour::Dim)), value.into()]);
                }
                table.print();
                Ok(())
            }
            Self::Delete { token, common } => {
                let api = common.api()?;
                let id = api.labelled("/api/v1/tokens", "token", &token)?;
                let answer = api.call(&Method::DELETE, &format!("/api/v1/tokens/{id}"), None)?;
                done(&common, &answer, "ended");
                Ok(())
            }
        }
    }
}

impl Mint {
    fn run(self) -> Result<(), Failure> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mut body = json!({ "kind": word(self.kind.to_possible_value()) });
        let texts = [
            ("label", self.label),
            ("role", self.role.map(|role| word(role.to_possible_value()))),
            ("board_id", self.board),
            ("succeeds", self.succeeds),
        ];
        for (field, value) in texts {
            if let Some(value) = value {
                body[field] = json!(value);
            }
        }
        if let Some(seconds) = self.expires {
            body["expires_in_seconds"] = json!(seconds);
        }
        for (field, is_said, value) in [
            ("all_boards", self.all_boards, true),
            ("reusable", self.one_off, false),
            ("approved", self.wait_for_approval, false),
        ] {
            if is_said {
                body[field] = json!(value);
            }
        }
        let token = self.common.api()?.post("/api/v1/tokens", &body)?;
        if !self.common.json(&token) {
            // Alone, so that a script takes it as it is.
            line(&text(&token["token"]));
            let ends = from_now(token["expires_at"].as_str());
            writeln!(io::stderr(), "ends {ends}; it is not shown again").ok();
        }
        Ok(())
    }
}

impl Channels {
    fn run(self) -> Result<(), Failure> {
        let patch = |named: Named, state: &str, word: &str| {
            let answer = named.call(&Method::PATCH, "", Some(&json!({ "state": state })))?;
            done(&named.common, &answer, word);
            Ok(())
        };
        match self {
            Self::Add { kind, url_file, label, board, concern, common } => {
                let kind = kind.to_possible_value().map(|kind| kind.get_name().to_owned());
                let mut body = json!({ "kind": kind, "url": read_url(&url_file)? });
                for (field, value) in [("label", label), ("board_id", board)] {
                    if let Some(value) = value {
                        body[field] = json!(value);
                    }
                }
                if !concern.is_empty() {
                    body["concerns"] = json!(concern);
                }
                let channel = common.api()?.post("/api/v1/channels", &body)?;
                if !common.json(&channel) {
                    line(&text(channel.get("secret").unwrap_or(&channel["id"])));
                }
                Ok(())
            }
            Self::Test(named) => {
                let answer = named.call(&Method::POST, "/test", Some(&json!({})))?;
                done(&named.common, &answer, "a test is on its way: rollcall channels deliveries");
                Ok(())
            }
            Self::Pause(named) => patch(named, "paused", "paused"),
            Self::Resume(named) => patch(named, "enabled", "resumed"),
            Self::Remove(named) => {
                let answer = named.call(&Method::DELETE, "", None)?;
                done(&named.common, &answer, "removed");
                Ok(())
            }
            Self::Deliveries(named) => deliveries(&named),
            Self::Set(set) => set.run(),
            Self::Redeliver { seq, failed_within, named } => {
                let body = match failed_within {
                    Some(seconds) => json!({ "failed_since": when::ago(seconds)? }),
                    None => json!({ "seq": seq }),
                };
                let answer = named.call(&Method::POST, "/redeliver", Some(&body))?;
                done(&named.common, &answer, &format!("{} queued again", answer["queued"]));
                Ok(())
            }
        }
    }
}

fn deliveries(named: &Named) -> Result<(), Failure> {
    let page = named.call(&Method::GET, "/deliveries?limit=50", None)?;
    if named.common.json(&page["items"]) {
        return Ok(());
    }
    let mut table = Table::new(["SEQ", "QUEUED", "TYPE", "STATE", "ATTEMPTS", "LAST"]);
    for delivery in page["items"].as_array().into_iter().flatten() {
        let attempts = delivery["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let last = attempts.last().map(|last| match (last["status"].as_u64(), last["error"].as_str()) {
            (Some(status), Some(error)) => format!("{status} {error}"),
            (Some(status), None) => status.to_string(),
            (None, error) => error.unwrap_or("no answer").to_owned(),
        });
        table.row([
            delivery["seq"].as_u64().map_or_else(|| "-".to_owned(), |seq| seq.to_string()).into(),
            short(delivery["queued_at"].as_str()).into(),
            text(&delivery["type"]).into(),
            text(&delivery["state"]).into(),
            attempts.len().to_string().into(),
            last.unwrap_or_default().into(),
        ]);
    }
    table.print();
    Ok(())
}

/// A channel's address, which nobody should see in the process list.
fn read_url(file: &Path) -> Result<String, Failure> {
    let mut url = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut url)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut url))
    };
    read.map_err(|error| Failure::Usage(format!("--url-file {}: {error}", file.display())))?;
    Ok(url.trim().to_owned())
}
