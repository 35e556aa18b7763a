//! Who is there, and what happened.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use super::api::{Api, Failure, encoded};
use super::table::{Cell, Colour, Table};
use super::when::{from_now, short};
use super::{BROKEN_PIPE, Common, json_line, line, say, text};
use crate::text::visible;

/// How often `--follow` asks, in milliseconds.
const FOLLOW_EVERY: u16 = 2000;

/// How many lines are shown before it follows.
const BEFORE: &str = "20";

#[derive(clap::Subcommand)]
pub enum Verb {
    /// List agents
    #[command(after_help = "Example: rollcall agents --status offline --name research")]
    Agents(Agents),
    /// Show one agent, by its id or name
    #[command(after_help = "Example: rollcall agent researcher-1")]
    Agent {
        /// Id or name
        agent: String,
        #[command(flatten)]
        common: Common,
    },
    /// What happened to an agent, oldest first
    #[command(after_help = "Example: rollcall events researcher-1 --follow")]
    Events(Events),
    /// The fleet at a glance, as the last sweep saw it
    #[command(after_help = "Example: rollcall fleet")]
    Fleet {
        #[command(flatten)]
        common: Common,
    },
    /// What was told, oldest first
    #[command(after_help = "Example: rollcall alerts --follow --after 812")]
    Alerts(Alerts),
    /// Print the page's address
    #[command(after_help = "Example: xdg-open \"$(rollcall open --with-token)\"")]
    Open {
        /// With the operator's token in it, which then needs no pasting
        #[arg(long)]
        with_token: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
pub struct Agents {
    /// Only these: online, healthy, degraded, error, offline, provisioning
    #[arg(long, value_name = "S")]
    status: Option<String>,
    /// Only these: pending, active, revoked
    #[arg(long, value_name = "S")]
    state: Option<String>,
    /// Only agents of this board
    #[arg(long, value_name = "ID")]
    board: Option<String>,
    /// Only agents whose name begins so
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Only agents that are announced absent, longest first
    #[arg(long, conflicts_with = "name")]
    absent: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Events {
    /// Id or name
    agent: String,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// How many at most, the newest
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u64).range(1..=200))]
    limit: u64,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub struct Alerts {
    /// Only what came after this number
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Only alerts of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Go on with what is told from now on
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

impl Verb {
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Self::Agents(arguments) => arguments.run(),
            Self::Agent { agent, common } => {
                show(&common.api()?.agent(&agent)?, &common);
                Ok(())
            }
            Self::Events(arguments) => arguments.run(),
            Self::Fleet { common } => {
                fleet(&common.api()?.get("/api/v1/fleet")?, &common);
                Ok(())
            }
            Self::Alerts(arguments) => arguments.run(),
            Self::Open { with_token, common } => {
                let api = common.api()?;
                let token =
                    if with_token { format!("#token={}", api.token().reveal()) } else { String::new() };
                line(&format!("{}/{token}", api.base()));
                Ok(())
            }
        }
    }
}

impl Agents {
    fn run(&self) -> Result<(), Failure> {
        let filters = [
            ("status", &self.status),
            ("state", &self.state),
            ("board_id", &self.board),
            ("name", &self.name),
        ];
        let query = filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
        let query = query.chain(self.absent.then_some(("absent", "true"))).collect::<Vec<_>>();
        let agents = self.common.api()?.agents(&query)?;
        if self.common.json(&json!(agents)) {
            return Ok(());
        }
        if agents.is_empty() {
            line("no agents");
        }
        let mut table = Table::new(["NAME", "STATUS", "SEEN", "ID", "NOTE"]);
        for agent in &agents {
            let word = word(agent);
            table.row([
                text(&agent["name"]).into(),
                Cell::coloured(word, Colour::of_status(word)),
                from_now(agent["last_seen_at"].as_str()).into(),
                text(&agent["id"]).into(),
                Cell::coloured(notes(agent), Some(Colour::Yellow)),
            ]);
        }
        table.print();
        Ok(())
    }
}

/// What an agent is, in one word.
fn word(agent: &Value) -> &str {
    match agent["detail"]["state"].as_str() {
        Some(state @ ("pending" | "revoked")) => state,
        _ => agent["status"].as_str().unwrap_or("-"),
    }
}

/// What an operator should know besides.
fn notes(agent: &Value) -> String {
    let detail = &agent["detail"];
    let mut notes = Vec::new();
    if detail["late"] == true {
        notes.push("late".to_owned());
    }
    if let Some(promise) = detail["next_beat_at"].as_str() {
        notes.push(format!("asleep, back {}", from_now(Some(promise))));
    }
    notes.extend(directive(&detail["directive"]));
    notes.join("; ")
}

fn directive(directive: &Value) -> Option<String> {
    let action = visible(directive["action"].as_str()?, 20);
    let obeyed = if directive["acknowledged_at"].is_string() { "acknowledged" } else { "not acknowledged" };
    Some(format!("{action}, {obeyed}"))
}

fn show(agent: &Value, common: &Common) {
    if common.json(agent) {
        return;
    }
    let detail = &agent["detail"];
    let time = |value: &Value| {
        value.as_str().map(|time| format!("{} ({})", short(Some(time)), from_now(Some(time))))
    };
    let config = &agent["heartbeat_config"];
    let rows = [
        ("name", Some(text(&agent["name"]))),
        ("id", Some(text(&agent["id"]))),
        ("board", agent["board_id"].as_str().map(str::to_owned)),
        ("state", Some(text(&detail["state"]))),
        ("status", Some(text(&agent["status"]))),
        ("late", (detail["late"] == true).then(|| "yes".to_owned())),
        ("directive", directive(&detail["directive"])),
        ("seen", Some(time(&agent["last_seen_at"]).unwrap_or_else(|| "never".to_owned()))),
        ("offline since", time(&detail["offline_since"])),
        ("lease ends", time(&detail["lease_expires_at"])),
        ("next heartbeat", time(&detail["next_beat_at"])),
        ("stalls", time(&detail["stalls_at"])),
        (
            "interval",
            Some(format!("{} s, silent after {} s", config["interval_seconds"], config["missing_tolerance"])),
        ),
        ("limit", detail["rate_limit_per_minute"].as_u64().map(|limit| format!("{limit} a minute"))),
        ("requests", detail["requests_total"].as_u64().map(|total| total.to_string())),
        ("created", time(&agent["created_at"])),
    ];
    let mut table = Table::new([]);
    for (key, value) in rows {
        if let Some(value) = value {
            let colour = if key == "status" { Colour::of_status(&value) } else { None };
            table.row([Cell::coloured(key, Some(Colour::Dim)), Cell::coloured(value, colour)]);
        }
    }
    table.print();
}

fn fleet(fleet: &Value, common: &Common) {
    if common.json(fleet) {
        return;
    }
    line(&format!("as of {}", from_now(fleet["as_of"].as_str())));
    if let Some(since) = fleet["deaf_since"].as_str() {
        line(&format!("Rollcall itself hears nobody since {}", short(Some(since))));
    }
    let counts =
        ["agents", "live", "late", "offline", "never_seen", "error", "stalled", "pending", "revoked"];
    let mut table = Table::new([]);
    for key in counts {
        if let Some(count) = fleet[key].as_u64() {
            let is_bad = count > 0 && matches!(key, "offline" | "never_seen" | "error" | "stalled");
            table.row([
                key.replace('_', " ").into(),
                Cell::coloured(count.to_string(), is_bad.then_some(Colour::Red)),
            ]);
        }
    }
    table.print();
    let told = fleet["told"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !told.is_empty() {
        line("");
    }
    let mut table = Table::new(["TOLD", "CONCERN", "ID"]);
    for agent in told {
        let concern = Cell::coloured(text(&agent["concern"]), Some(Colour::Red));
        table.row([text(&agent["name"]).into(), concern, text(&agent["id"]).into()]);
    }
    table.print();
    if let Some(more) = fleet["more"].as_u64().filter(|more| *more > 0) {
        line(&format!("and {more} more: rollcall agents --absent"));
    }
}

/// Waits until it is time to ask again, or until nobody reads any more: the program ends then.
fn wait_to_ask() {
    let stdout = io::stdout();
    let mut reader = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    if poll(&mut reader, FOLLOW_EVERY).is_ok_and(|gone| gone > 0) {
        std::process::exit(BROKEN_PIPE);
    }
}

/// What stands in the way of who follows.
#[derive(Default)]
struct Outage {
    said: String,
}

impl Outage {
    /// Says it, once for as long as it stays the same.
    ///
    /// # Errors
    /// It will not pass by itself.
    fn outlast(&mut self, failure: Failure) -> Result<(), Failure> {
        if !failure.may_pass() {
            return Err(failure);
        }
        if self.said != failure.to_string() {
            self.said = failure.to_string();
            say(&failure);
        }
        Ok(())
    }
}

impl Events {
    fn run(&self) -> Result<(), Failure> {
        let api = self.common.api()?;
        let agent = api.agent(&self.agent);
        // A deleted agent still has its events.
        let id = match agent {
            Ok(agent) => text(&agent["id"]),
            Err(Failure::NotFound(_)) if super::api::is_uuid(&self.agent) => self.agent.clone(),
            Err(failure) => return Err(failure),
        };
        let limit = if self.follow { BEFORE.to_owned() } else { self.limit.to_string() };
        let mut query = vec![("limit", limit.as_str())];
        query.extend(self.kind.as_deref().map(|kind| ("type", kind)));
        let path = format!("/api/v1/agents/{id}/events");
        let page = api.get(&format!("{path}?{}", encoded(query)))?;
        let mut events = page["items"].as_array().cloned().unwrap_or_default();
        events.reverse();
        if !self.follow {
            if !self.common.json(&json!(events)) {
                print_events(&events);
            }
            return Ok(());
        }
        let (mut seen, mut outage) = (BTreeSet::new(), Outage::default());
        loop {
            for event in &events {
                if seen.insert(text(&event["id"])) {
                    self.print(event);
                }
            }
            // Ids sort by time, but for those of the same moment.
            while seen.len() > 1000 {
                seen.pop_first();
            }
            wait_to_ask();
            events = match self.since(&api, &path, &seen) {
                Ok(events) => events,
                Err(failure) => outage.outlast(failure).map(|()| Vec::new())?,
            };
        }
    }

    /// The events back to one that was seen, oldest first. Of the same moment a smaller id may come later.
    fn since(&self, api: &Api, path: &str, seen: &BTreeSet<String>) -> Result<Vec<Value>, Failure> {
        let (mut events, mut before) = (Vec::new(), None::<String>);
        loop {
            let mut query = vec![("limit", "200")];
            query.extend(self.kind.as_deref().map(|kind| ("type", kind)));
            query.extend(before.as_deref().map(|before| ("before", before)));
            let page = api.get(&format!("{path}?{}", encoded(query)))?;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            let reaches = items.iter().any(|event| seen.contains(&text(&event["id"])));
            events.extend(items);
            match page["next"].as_str() {
                Some(next) if !reaches => before = Some(next.to_owned()),
                _ => break,
            }
        }
        events.retain(|event| seen.first().is_none_or(|oldest| text(&event["id"]) > *oldest));
        events.reverse();
        Ok(events)
    }

    fn print(&self, event: &Value) {
        if self.common.json { json_line(event) } else { print_events(std::slice::from_ref(event)) }
    }
}

fn print_events(events: &[Value]) {
    let mut table = Table::new([]);
    for event in events {
        let payload = match &event["payload"] {
            Value::Null => String::new(),
            payload => payload.to_string(),
        };
        let time = Cell::coloured(short(event["at"].as_str()), Some(Colour::Dim));
        table.row([time, text(&event["type"]).into(), text(&event["actor"]).into(), payload.into()]);
    }
    table.print();
}

impl Alerts {
    fn run(&self) -> Result<(), Failure> {
        let api = self.common.api()?;
        let page = |place: Option<(&str, u64)>| {
            let mut query = vec![("limit".to_owned(), "200".to_owned())];
            query.extend(self.kind.as_ref().map(|kind| ("type".to_owned(), kind.clone())));
            query.extend(place.map(|(name, seq)| (name.to_owned(), seq.to_string())));
            let query = query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            api.get(&format!("/api/v1/alerts?{}", encoded(query)))
        };
        let mut last = self.after.unwrap_or_default();
        if self.after.is_none() {
            let mut newest = page(None)?["items"].as_array().cloned().unwrap_or_default();
            newest.truncate(50);
            newest.reverse();
            last = newest.last().and_then(|alert| alert["seq"].as_u64()).unwrap_or_default();
            self.print_all(newest);
            if !self.follow {
                return Ok(());
            }
        }
        let (mut all, mut outage) = (Vec::new(), Outage::default());
        loop {
            let answer = match page(Some(("after", last))) {
                Ok(answer) => answer,
                Err(failure) if self.follow => {
                    outage.outlast(failure)?;
                    wait_to_ask();
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            last = items.last().and_then(|alert| alert["seq"].as_u64()).unwrap_or(last);
            last = last.max(answer["next"].as_u64().unwrap_or_default());
            let is_end = answer["next"].is_null();
            if self.follow {
                self.print_all(items);
                if is_end {
                    wait_to_ask();
                }
            } else {
                all.extend(items);
                if is_end {
                    self.print_all(all);
                    return Ok(());
                }
            }
        }
    }

    fn print_all(&self, alerts: Vec<Value>) {
        if self.common.json && self.follow {
            for alert in &alerts {
                json_line(alert);
            }
        } else if !self.common.json(&json!(alerts)) {
            let mut table = Table::new([]);
            for alert in &alerts {
                let kind = text(&alert["type"]);
                let is_good = kind.ends_with("recovered") || kind == "system.heard";
                let colour = if is_good { Colour::Green } else { Colour::Red };
                table.row([
                    Cell::coloured(alert["seq"].to_string(), Some(Colour::Dim)),
                    Cell::coloured(short(alert["at"].as_str()), Some(Colour::Dim)),
                    Cell::coloured(kind, Some(colour)),
                    subject(&alert["data"]).into(),
                ]);
            }
            table.print();
        }
    }
}

/// Whom an alert is about.
fn subject(data: &Value) -> String {
    if let Some(name) = data["agent"]["name"].as_str() {
        let why = data["reason"].as_str().or(data["cause"].as_str()).map(|why| format!(" ({why})"));
        return format!("{name}{}", why.unwrap_or_default());
    }
    if let Some(label) = data["channel"]["label"].as_str() {
        return label.to_owned();
    }
    data["total"].as_u64().map(|total| format!("{total} agents")).unwrap_or_default()
}
