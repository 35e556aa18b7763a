//! A message as the log holds it: about all boards, and what of it a channel or an operator is told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::agent::AgentId;
use super::channel::{Channel, ChannelId};
use super::concern::Concern;
use super::ids::BoardId;
use super::notification::{Notification, message_type};
use super::pace::Incident;
use super::watch::{Cause, Change, Watched};
use crate::time::Timestamp;

/// How many agents a message names: of all, and of each board that has a channel.
pub const NAMED: usize = 50;

/// How many of those that wait to be let in are named: an open door lets strangers write names.
const NAMED_WAITING: usize = 10;

/// How many agents a message holds for all boards together. Its row must stay far below DynamoDB's 400 KB.
const HELD: usize = 500;

/// How many boards a message counts for a receiver, those with the most agents first.
const BOARDS: usize = 20;

/// The share of a fleet, in percent, from which an incident is one of the mass: then one cause is more likely than many.
const MASS: u64 = 55;

/// One agent in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: AgentId,
    /// Its name: a stranger's text.
    pub name: String,
    /// Its board.
    pub board_id: Option<BoardId>,
    /// The concern that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Concern>,
    /// The concern that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Concern>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The last heartbeat or event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
}

/// What only a message about one agent says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// When the silence was announced in the agent's events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_at: Option<Timestamp>,
    /// Milliseconds from the end of its lease to this message.
    pub lag_ms: u64,
    /// Heartbeats that did not come.
    pub missed_heartbeats: u64,
    /// Milliseconds between heartbeats.
    pub interval_ms: u64,
    /// Milliseconds that a lease lasts.
    pub tolerance_ms: u64,
    /// What it last said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_health: Option<String>,
    /// From when it was silent, for the end of a silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_since: Option<Timestamp>,
    /// When it was heard again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_at: Option<Timestamp>,
}

/// How many agents of a board a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The board.
    pub board_id: Option<BoardId>,
    /// The concern.
    pub concern: Concern,
    /// Whether it begins.
    pub begins: bool,
    /// How many agents.
    pub agents: u64,
}

/// The fleet around a message, as the last complete sweep counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Around {
    /// Active agents.
    pub agents: u64,
    /// Those with a lease that runs.
    pub live: u64,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum Content {
    /// One agent.
    Agent {
        /// Which, and what.
        member: Member,
        /// What else is known.
        details: Details,
        /// The fleet around it.
        fleet: Option<Around>,
    },
    /// Several agents: what began, or what ended.
    Fleet {
        /// Whether something began.
        begins: bool,
        /// The incident.
        incident: Incident,
        /// Counts by board and concern.
        tallies: Vec<Tally>,
        /// Agents: at most [`NAMED`] of all, and as many of each board with a channel.
        members: Vec<Member>,
        /// The fleet around it; absent when the sweep did not see all of it.
        fleet: Option<Around>,
        /// Agents that are still told as silent; absent when the sweep did not see all of them.
        still_offline: Option<u64>,
    },
    /// Rollcall hears nobody.
    Deaf {
        /// Since when.
        since: Timestamp,
    },
    /// Rollcall hears again.
    Heard {
        /// Since when it had not.
        since: Timestamp,
    },
    /// A channel is disabled.
    ChannelDisabled {
        /// Which.
        channel_id: ChannelId,
        /// What people call it.
        label: Option<String>,
        /// Where it sent to, as far as that is shown.
        target: String,
        /// Why.
        reason: String,
        /// Its board: others do not hear of it.
        board_id: Option<BoardId>,
    },
}

/// A message, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its number: messages are numbered without a gap.
    pub seq: u64,
    /// When it was told.
    pub at: Timestamp,
    /// Where this deployment answers: links begin with it.
    pub base_url: String,
    /// What it is about.
    pub content: Content,
}

/// What of the messages somebody is told.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Of this board alone.
    pub board_id: Option<BoardId>,
    /// Of these concerns alone; all without.
    pub concerns: Option<&'a Channel>,
}

impl View<'_> {
    /// Everything.
    pub const ALL: View<'static> = View { board_id: None, concerns: None };

    /// What of the messages an operator of this board sees, or of all.
    #[must_use]
    pub const fn of_board(board_id: Option<BoardId>) -> View<'static> {
        View { board_id, concerns: None }
    }

    fn board(&self, board_id: Option<BoardId>) -> bool {
        self.board_id.is_none() || self.board_id == board_id
    }

    fn concern(&self, concern: Option<Concern>) -> Option<Concern> {
        concern.filter(|concern| self.concerns.is_none_or(|channel| channel.hears(*concern)))
    }
}

impl Member {
    /// An agent and what is to be told of it.
    #[must_use]
    pub fn of(watched: &Watched, change: &Change) -> Self {
        Self {
            id: watched.agent_id,
            name: watched.agent_name.as_str().to_owned(),
            board_id: watched.board_id,
            began: change.begins,
            ended: change.ends.map(|(concern, _)| concern),
            cause: change.ends.map(|(_, cause)| cause),
            last_seen_at: watched.last_seen_at,
        }
    }

    /// What of it is told there: the same without what is not heard; `None` if that is nothing.
    fn seen_by(&self, view: View<'_>) -> Option<Self> {
        let (began, ended) = (view.concern(self.began), view.concern(self.ended));
        let is_heard = view.board(self.board_id) && (began.is_some() || ended.is_some());
        is_heard.then(|| Self { began, ended, cause: ended.and(self.cause), ..self.clone() })
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "board_id": self.board_id,
            "began": self.began,
            "ended": self.ended,
            "cause": self.cause,
            "last_seen_at": self.last_seen_at.map(|seen| seen.to_string()),
        })
    }
}

impl Details {
    /// What the row tells of an agent whose silence, or other concern, is told now.
    #[must_use]
    pub fn of(watched: &Watched, now: Timestamp) -> Self {
        let due = watched.lease().unwrap_or_else(|| watched.base().plus(watched.first_heartbeat_grace()));
        Self {
            detected_at: watched.offline_since,
            lag_ms: u64::try_from(now.since(due).as_millis()).unwrap_or(u64::MAX),
            missed_heartbeats: watched.missed_heartbeats(now),
            interval_ms: watched.interval_ms,
            tolerance_ms: watched.tolerance_ms,
            last_health: watched.health.map(|health| health.as_str().to_owned()),
            offline_since: None,
            back_at: None,
        }
    }
}

/// The tallies and the named agents of a message about several.
#[must_use]
pub fn group(members: Vec<Member>, boards_with_channels: &[BoardId]) -> (Vec<Tally>, Vec<Member>) {
    let mut counts: BTreeMap<(Option<BoardId>, Concern, bool), u64> = BTreeMap::new();
    for member in &members {
        for (concern, begins) in [(member.began, true), (member.ended, false)] {
            if let Some(concern) = concern {
                *counts.entry((member.board_id, concern, begins)).or_default() += 1;
            }
        }
    }
    let tallies = counts.into_iter();
    let tallies =
        tallies.map(|((board_id, concern, begins), agents)| Tally { board_id, concern, begins, agents });
    let of_each = NAMED.min(HELD / boards_with_channels.len().max(1));
    let mut named: BTreeMap<BoardId, usize> = BTreeMap::new();
    let mut held = Vec::new();
    for (place, member) in members.into_iter().enumerate() {
        let board = member.board_id.filter(|board| boards_with_channels.contains(board));
        let of_board = board.map(|board| named.entry(board).or_default());
        let is_wanted = of_board.is_some_and(|named| {
            *named += 1;
            *named <= of_each
        });
        if place < NAMED || is_wanted {
            held.push(member);
        }
    }
    (tallies.collect(), held)
}

impl Message {
    /// How it is told there; `None` if nothing of it is heard there.
    #[must_use]
    pub fn seen_by(&self, view: View<'_>) -> Option<Notification> {
        let (message_type, data) = match &self.content {
            Content::Agent { member, details, fleet } => {
                let member = member.seen_by(view)?;
                let fleet = fleet.filter(|_| view.board_id.is_none());
                (type_of(&member), self.about_agent(&member, details, fleet))
            }
            Content::Fleet { begins, incident, tallies, members, fleet, still_offline } => {
                let tallies: Vec<Tally> = tallies
                    .iter()
                    .filter(|tally| view.board(tally.board_id) && view.concern(Some(tally.concern)).is_some())
                    .copied()
                    .collect();
                let members: Vec<Member> =
                    members.iter().filter_map(|member| member.seen_by(view)).take(NAMED).collect();
                if tallies.is_empty() {
                    return None;
                }
                let (is_whole, fleet) = (view.board_id.is_none(), fleet.filter(|_| view.board_id.is_none()));
                let is_about_waiting = tallies.iter().all(|tally| tally.concern == Concern::Waiting);
                // To who does not hear of what began, what got worse is an end.
                let is_begin = tallies.iter().any(|tally| tally.begins);
                let message_type = match (is_begin, is_about_waiting) {
                    (true, true) => message_type::AGENTS_WAITING,
                    (true, false) => message_type::FLEET_INCIDENT,
                    (false, _) => message_type::FLEET_RECOVERED,
                };
                let named = if is_about_waiting { NAMED_WAITING.min(members.len()) } else { members.len() };
                let mut data = about_fleet(is_begin, *incident, &tallies, &members[..named], fleet);
                if is_whole {
                    data.insert("boards".to_owned(), boards(is_begin, &tallies));
                }
                if let Some(still) = still_offline.filter(|_| is_whole && !begins) {
                    data.insert("still_offline".to_owned(), json!(still));
                }
                data.insert("url".to_owned(), json!(format!("{}/", self.base_url)));
                (message_type, data)
            }
            Content::Deaf { since } => (message_type::SYSTEM_DEAF, system(*since, self.at)),
            Content::Heard { since } => (message_type::SYSTEM_HEARD, system(*since, self.at)),
            Content::ChannelDisabled { channel_id, label, target, reason, board_id } => {
                if !view.board(*board_id)
                    || view.concerns.is_some_and(|channel| channel.channel_id == *channel_id)
                {
                    return None;
                }
                let channel = json!({ "id": channel_id, "label": label, "target": target });
                let data = [("channel", channel), ("reason", json!(reason))];
                let data = data.map(|(name, value)| (name.to_owned(), value));
                (message_type::CHANNEL_DISABLED, Map::from_iter(data))
            }
        };
        let mut data = data;
        data.insert("seq".to_owned(), json!(self.seq));
        Some(Notification { message_type: message_type.to_owned(), at: self.at, data })
    }

    fn about_agent(&self, member: &Member, details: &Details, fleet: Option<Around>) -> Map<String, Value> {
        let seconds = |millis: u64| Duration::from_millis(millis).as_secs();
        let moment = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let reason = member.began.filter(|began| *began == Concern::Offline).map(|_| "silent");
        let mut data = json!({
            "agent": { "id": member.id, "name": member.name, "board_id": member.board_id },
            "began": member.began,
            "ended": member.ended,
            "reason": reason,
            "last_seen_at": moment(member.last_seen_at),
            "missed_heartbeats": details.missed_heartbeats,
            "heartbeat_config": {
                "interval_seconds": seconds(details.interval_ms),
                "missing_tolerance": seconds(details.tolerance_ms),
            },
            "last_health": details.last_health,
            "url": format!("{}/#/agents/{}", self.base_url, member.id),
        });
        let data = data.as_object_mut().map(std::mem::take).unwrap_or_default();
        let mut data = data;
        let mut say = |name: &str, value: Value| data.insert(name.to_owned(), value);
        if member.began.is_some() {
            say("detected_at", json!(moment(details.detected_at)));
            say("lag_ms", json!(details.lag_ms));
        }
        if member.ended.is_some() {
            let downtime = details.back_at.zip(details.offline_since).map(|(back, since)| back.since(since));
            say("cause", json!(member.cause));
            say("offline_since", json!(moment(details.offline_since)));
            say("back_at", json!(moment(details.back_at)));
            say("downtime_seconds", json!(downtime.map(|downtime| downtime.as_secs())));
        }
        if let Some(fleet) = fleet {
            say("fleet", json!({ "agents": fleet.agents, "live": fleet.live }));
        }
        data
    }
}

/// The type of a message about one agent: what began, or that something ended.
fn type_of(member: &Member) -> &'static str {
    match member.began {
        Some(Concern::Offline) => message_type::AGENT_OFFLINE,
        Some(Concern::NeverSeen) => message_type::AGENT_NEVER_SEEN,
        Some(Concern::Flapping) => message_type::AGENT_FLAPPING,
        Some(Concern::Cloned) => message_type::AGENT_CLONED,
        Some(Concern::Error) => message_type::AGENT_ERROR,
        Some(Concern::Stalled) => message_type::AGENT_STALLED,
        Some(Concern::OverBudget) => message_type::AGENT_OVER_BUDGET,
        Some(Concern::Unheeded) => message_type::AGENT_UNHEEDED,
        Some(Concern::Waiting) => message_type::AGENTS_WAITING,
        None => message_type::AGENT_RECOVERED,
    }
}

fn about_fleet(
    begins: bool,
    incident: Incident,
    tallies: &[Tally],
    members: &[Member],
    fleet: Option<Around>,
) -> Map<String, Value> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for tally in tallies.iter().filter(|tally| tally.begins == begins) {
        *counts.entry(tally.concern.as_str()).or_default() += tally.agents;
    }
    let total: u64 = counts.values().sum();
    let listed = u64::try_from(members.len()).unwrap_or(u64::MAX);
    let data = json!({
        "incident_id": incident.incident_id,
        "update": incident.update,
        "total": total,
        "counts": counts,
        "agents": members.iter().map(Member::to_json).collect::<Vec<_>>(),
        "more": total.saturating_sub(listed),
    });
    let Value::Object(mut data) = data else { return Map::new() };
    if let Some(fleet) = fleet {
        data.insert("fleet".to_owned(), json!({ "agents": fleet.agents, "live": fleet.live }));
        if begins {
            let percent = (total * 100).checked_div(fleet.agents).unwrap_or_default().min(100);
            data.insert("share_percent".to_owned(), json!(percent));
            data.insert("mass".to_owned(), json!(percent >= MASS));
        }
    }
    data
}

/// The boards with the most agents.
fn boards(begins: bool, tallies: &[Tally]) -> Value {
    let mut counts: BTreeMap<Option<BoardId>, u64> = BTreeMap::new();
    for tally in tallies.iter().filter(|tally| tally.begins == begins) {
        *counts.entry(tally.board_id).or_default() += tally.agents;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, agents)| std::cmp::Reverse(*agents));
    let boards = counts.into_iter().take(BOARDS);
    boards.map(|(board_id, agents)| json!({ "board_id": board_id, "agents": agents })).collect()
}

fn system(since: Timestamp, at: Timestamp) -> Map<String, Value> {
    let data = [("since", json!(since.to_string())), ("seconds", json!(at.since(since).as_secs()))];
    data.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
