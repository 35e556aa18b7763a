//! A message in the form of its channel: JSON for a webhook, words for Slack and Discord.
//!
//! What agents call themselves is a stranger's text. In words it stands in code spans, without the characters that would
//! end them or that nobody sees, so that it is no link, no mention and no formatting.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::channel::{ChannelKind, disabled};
use super::notification::{BODY_LIMIT, Notification, message_type};

/// The most characters of a text for Slack.
const SLACK_LIMIT: usize = 3_000;

/// The most characters of a text for Discord, which counts them by UTF-16.
const DISCORD_LIMIT: usize = 2_000;

/// The most characters of one stranger's text among words.
const NAME_LIMIT: usize = 100;

/// What is left out of a body that is too long, from its end, and the field that counts it.
const LISTS: [(&str, &str); 2] = [("agents", "more"), ("boards", "more_boards")];

/// The body of `notification` for a channel of this kind. A webhook's has at most [`BODY_LIMIT`] bytes, unless it is
/// longer without any agent or board.
#[must_use]
pub fn render(kind: ChannelKind, notification: &Notification) -> String {
    match kind {
        ChannelKind::Webhook => webhook(notification),
        ChannelKind::Slack => {
            let text = words(notification, Form::Slack).fit(SLACK_LIMIT);
            json!({ "text": text, "unfurl_links": false, "unfurl_media": false }).to_string()
        }
        ChannelKind::Discord => {
            let content = words(notification, Form::Discord).fit(DISCORD_LIMIT);
            json!({ "content": content, "allowed_mentions": { "parse": [] } }).to_string()
        }
    }
}

/// `{"type", "timestamp", "data"}`, with as many agents as there is room for.
fn webhook(notification: &Notification) -> String {
    let whole = notification.to_json().to_string();
    let mut excess = whole.len().saturating_sub(BODY_LIMIT);
    if excess == 0 {
        return whole;
    }
    let mut cut = notification.clone();
    for (list, count) in LISTS {
        let left_out = cut.data.get(count).and_then(Value::as_u64).unwrap_or(0);
        let Some(Value::Array(items)) = cut.data.get_mut(list) else { continue };
        // Twenty bytes for a count that was not there, or has more digits now.
        let (mut dropped, mut target) = (0, excess + 20 + count.len());
        while let Some(last) = (target > 0).then(|| items.pop()).flatten() {
            target = target.saturating_sub(last.to_string().len() + 1);
            dropped += 1;
        }
        cut.data.insert(count.to_owned(), json!(left_out + dropped));
        excess = cut.to_json().to_string().len().saturating_sub(BODY_LIMIT);
        if excess == 0 {
            break;
        }
    }
    cut.to_json().to_string()
}

/// Whose markup the words are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Slack,
    Discord,
}

impl Form {
    /// A stranger's text, as text and nothing else.
    fn strangers(self, text: &str) -> String {
        let seen = text.chars().filter_map(|it| match it {
            '`' => Some('\''),
            it if !is_seen(it) => None,
            it if it.is_whitespace() => Some(' '),
            it => Some(it),
        });
        let seen: String = seen.take(NAME_LIMIT).collect();
        let seen = match seen.trim() {
            "" => "?",
            seen => seen,
        };
        let seen = match self {
            // Slack reads these three everywhere, in code spans as well.
            Self::Slack => seen.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
            Self::Discord => seen.to_owned(),
        };
        format!("`{seen}`")
    }

    fn length(self, text: &str) -> usize {
        match self {
            Self::Slack => text.chars().count(),
            Self::Discord => text.encode_utf16().count(),
        }
    }
}

/// Whether a character is part of what people read: no control character, no separator of lines, and none of those that
/// only change how their neighbours look, turn the direction of writing, or leave nothing (Unicode's category Cf, and
/// what it calls default ignorable).
#[must_use]
pub fn is_seen(character: char) -> bool {
    !(character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'))
}

/// A message in words: a line that says what happened, one line for each agent, and how many more there are.
struct Words {
    form: Form,
    head: String,
    lines: Vec<String>,
    more: u64,
    foot: Option<String>,
}

impl Words {
    /// The text, without as many of the last agents as are too many for `limit` characters.
    fn fit(mut self, limit: usize) -> String {
        loop {
            let text = self.text();
            if self.form.length(&text) <= limit {
                return text;
            }
            if self.lines.pop().is_some() {
                self.more += 1;
            } else {
                return text.chars().take(limit / 2).collect();
            }
        }
    }

    fn text(&self) -> String {
        let mut text = self.head.clone();
        for line in &self.lines {
            let _ = write!(text, "\n• {line}");
        }
        if self.more > 0 {
            let _ = write!(text, "\n… and {} more", self.more);
        }
        if let Some(foot) = &self.foot {
            let _ = write!(text, "\n{foot}");
        }
        text
    }
}

fn words(notification: &Notification, form: Form) -> Words {
    let said = Said { data: &notification.data, form };
    let agents = said.list("agents");
    let more = said.count("more").unwrap_or(0);
    // In these brackets it is a link to Slack, and to Discord one without a preview.
    let url = said.text("url").filter(|url| is_ours(url)).map(|url| format!("<{url}>"));
    Words {
        form,
        head: said.head(&notification.message_type),
        lines: agents.iter().map(|agent| said.line(agent)).collect(),
        more,
        foot: url,
    }
}

/// Whether a URL can stand in a text: a scheme, and nothing that would end it.
fn is_ours(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://"))
        && url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>|`\"".contains(&byte))
}

/// What a message says, field by field.
struct Said<'a> {
    data: &'a Map<String, Value>,
    form: Form,
}

impl<'a> Said<'a> {
    fn text(&self, field: &str) -> Option<&'a str> {
        self.data.get(field)?.as_str()
    }

    fn count(&self, field: &str) -> Option<u64> {
        self.data.get(field)?.as_u64()
    }

    fn list(&self, field: &str) -> &'a [Value] {
        self.data.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn is(&self, field: &str) -> bool {
        self.data.get(field).and_then(Value::as_bool).unwrap_or(false)
    }

    /// How many agents a message is about, those that it does not name among them.
    fn agents(&self) -> u64 {
        let named = u64::try_from(self.list("agents").len()).unwrap_or(u64::MAX);
        let counted = self.count("total").unwrap_or_else(|| named + self.count("more").unwrap_or(0));
        if counted == 0 && self.data.contains_key("agent") { 1 } else { counted }
    }

    /// A name by its own object, as text.
    fn name(&self, of: &Value) -> String {
        self.form.strangers(of.get("name").and_then(Value::as_str).unwrap_or("?"))
    }

    /// A word that Rollcall itself chose. Whatever else stands there is treated like a stranger's.
    fn word(&self, text: &'a str) -> Cow<'a, str> {
        if text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte)) {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(self.form.strangers(text))
        }
    }

    /// An agent among many: its name, and what is wrong or what ended.
    fn line(&self, agent: &'a Value) -> String {
        let mut line = self.name(agent);
        let field = |name: &str| agent.get(name).and_then(Value::as_str);
        let began = field("began").or_else(|| field("concern")).map(concern);
        let ended = field("ended").map(concern);
        match (began, ended) {
            (Some(began), Some(ended)) => _ = write!(line, ": {began}; no longer {ended}"),
            (Some(began), None) => _ = write!(line, ": {began}"),
            (None, Some(ended)) => _ = write!(line, ": no longer {ended}"),
            (None, None) => {}
        }
        if let Some(cause) = field("cause") {
            let _ = write!(line, " ({})", self.word(cause));
        }
        line
    }

    /// The first line.
    fn head(&self, kind: &str) -> String {
        let agent = self.data.get("agent").map_or_else(|| "An agent".to_owned(), |agent| self.name(agent));
        let mut head = match kind {
            message_type::AGENT_OFFLINE => self.with_end(format!("{agent} is silent{}", self.silence())),
            message_type::AGENT_NEVER_SEEN => {
                self.with_end(format!("{agent} was let in and has never sent a heartbeat"))
            }
            message_type::AGENT_CLONED => {
                self.with_end(format!("{agent} is more than one process with the same key"))
            }
            message_type::AGENT_ERROR => self.with_end(format!("{agent} says that it is broken")),
            message_type::AGENT_STALLED => {
                self.with_end(format!("{agent} sends heartbeats, but its work does not get further"))
            }
            message_type::AGENT_OVER_BUDGET => {
                self.with_end(format!("{agent} has used up its budget for the day"))
            }
            message_type::AGENT_UNHEEDED => {
                self.with_end(format!("{agent} does not acknowledge what an operator wants of it"))
            }
            message_type::AGENT_RECOVERED => self.recovery(&agent),
            message_type::AGENT_FLAPPING => {
                format!(
                    "{agent} falls silent and comes back again and again. Nothing more is said of that until it ends."
                )
            }
            message_type::AGENTS_WAITING => {
                format!("{} to be let in.", self.number_of_agents("waits", "wait"))
            }
            message_type::FLEET_INCIDENT => {
                let mut head =
                    format!("{} in trouble{}.", self.number_of_agents("is", "are"), self.by_concern());
                if let Some(percent) = self.count("share_percent").filter(|_| self.is("mass")) {
                    let _ = write!(head, " That is {percent}% of the fleet: perhaps they have one cause.");
                }
                head
            }
            message_type::FLEET_RECOVERED => {
                let mut head = format!("{} no longer in trouble.", self.number_of_agents("is", "are"));
                if let Some(offline) = self.count("still_offline").filter(|offline| *offline > 0) {
                    let _ = write!(head, " Still silent: {offline}.");
                }
                head
            }
            message_type::SYSTEM_DEAF => {
                "Rollcall hears no heartbeat at all, not even its own: it cannot tell who is alive."
                    .to_owned()
            }
            message_type::SYSTEM_HEARD => match self.count("seconds") {
                Some(seconds) => format!("Rollcall hears heartbeats again, after {}.", duration(seconds)),
                None => "Rollcall hears heartbeats again.".to_owned(),
            },
            message_type::CHANNEL_DISABLED => {
                let channel = self.data.get("channel").unwrap_or(&Value::Null);
                let name = channel.get("label").and_then(Value::as_str).filter(|label| !label.is_empty());
                let name = name.or_else(|| channel.get("target")?.as_str());
                let name = name.map(|name| format!(" {}", self.form.strangers(name))).unwrap_or_default();
                let reason = match self.text("reason") {
                    Some(disabled::GONE) => ", since its receiver says that it is gone",
                    Some(disabled::FAILING) => ", since its receiver has taken nothing for days",
                    _ => "",
                };
                format!("The channel{name} is disabled{reason}: nothing is sent to it any more.")
            }
            message_type::CHANNEL_HELLO => self.hello(),
            message_type::CHANNEL_TEST => "This is a test of this channel. Nothing is wrong.".to_owned(),
            other => format!("Rollcall tells {}.", self.form.strangers(other)),
        };
        if let Some((live, agents)) = self.fleet() {
            let _ = write!(head, " Live: {live} of {agents}.");
        }
        head
    }

    /// How many of them have which concern.
    fn by_concern(&self) -> String {
        let Some(counts) = self.data.get("counts").and_then(Value::as_object) else { return String::new() };
        let counts = counts.iter().filter_map(|(word, count)| Some((concern(word), count.as_u64()?)));
        let counts: Vec<String> = counts.map(|(concern, count)| format!("{count} {concern}")).collect();
        if counts.is_empty() { counts.concat() } else { format!(": {}", counts.join(", ")) }
    }

    fn number_of_agents(&self, one: &str, many: &str) -> String {
        match self.agents() {
            1 => format!("1 agent {one}"),
            count => format!("{count} agents {many}"),
        }
    }

    /// A sentence's end, with what ended at the same time.
    fn with_end(&self, mut sentence: String) -> String {
        match self.text("ended").map(concern) {
            Some(ended) => _ = write!(sentence, ". It is no longer {ended}."),
            None => sentence.push('.'),
        }
        sentence
    }

    /// Since when, and how many heartbeats that are.
    fn silence(&self) -> String {
        let mut silence = String::new();
        if let Some(seen) = self.text("last_seen_at") {
            let _ = write!(silence, " since {}", self.moment(seen));
        }
        if let Some(missed) = self.count("missed_heartbeats") {
            let _ = write!(silence, ", {missed} heartbeats missed");
        }
        silence
    }

    fn recovery(&self, agent: &str) -> String {
        let ended = self.text("ended").map_or("in trouble", concern);
        let mut head = match self.text("cause") {
            Some("restarted") => format!("{agent} is no longer {ended}: it was restarted."),
            Some("left") => format!("{agent} has left: it said so itself."),
            Some("revoked") => format!("{agent} is revoked, and no longer watched."),
            Some("deleted") => format!("{agent} is deleted, and no longer watched."),
            Some("forgotten") => format!("{agent} is forgotten, and no longer watched."),
            Some("worse") => format!("{agent} is no longer {ended}: something worse began."),
            _ => format!("{agent} is no longer {ended}."),
        };
        if let Some(seconds) = self.count("downtime_seconds") {
            let _ = write!(head, " That took {}.", duration(seconds));
        }
        head
    }

    fn hello(&self) -> String {
        let mut head = "This channel hears of alerts from now on.".to_owned();
        match (self.text("as_of"), self.agents()) {
            (None, _) => head.push_str(" No sweep has run yet, so nothing is known of now."),
            (Some(as_of), 0) => _ = write!(head, " At {} nothing was wrong.", self.moment(as_of)),
            (Some(as_of), _) => {
                let agents = self.number_of_agents("was", "were");
                let _ = write!(head, " At {} {agents} in trouble:", self.moment(as_of));
            }
        }
        head
    }

    /// A moment: digits and what stands between them in RFC 3339, or nothing of it.
    fn moment(&self, text: &'a str) -> Cow<'a, str> {
        let is_moment = text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ+".contains(&byte));
        if is_moment { Cow::Borrowed(text) } else { Cow::Owned(self.form.strangers(text)) }
    }

    fn fleet(&self) -> Option<(u64, u64)> {
        let fleet = self.data.get("fleet")?;
        Some((fleet.get("live")?.as_u64()?, fleet.get("agents")?.as_u64()?))
    }
}

/// A concern as people say it.
fn concern(word: &str) -> &'static str {
    match word {
        "offline" => "silent",
        "never_seen" => "never heard",
        "flapping" => "coming and going",
        "cloned" => "more than one process",
        "error" => "broken",
        "stalled" => "stalled",
        "over_budget" => "over its budget",
        "unheeded" => "not heeding",
        "waiting" => "waiting to be let in",
        _ => "in trouble",
    }
}

/// Seconds as people say them.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    const HOSTILE: &str = "[x](https://evil.example) <!here> @everyone `a`\u{202e}\u{200b}\n*b*";

    fn notification(message_type: &str, data: &Value) -> Notification {
        let data = data.as_object().cloned().unwrap_or_default();
        Notification { message_type: message_type.to_owned(), at: Timestamp::from_millis(0), data }
    }

    fn read(kind: ChannelKind, notification: &Notification) -> Value {
        serde_json::from_str(&render(kind, notification)).unwrap()
    }

    fn of_many(count: usize, name: &str) -> Notification {
        let agents: Vec<Value> = (0..count)
            .map(|it| json!({ "id": uuid::Uuid::nil(), "name": format!("{name}{it}"), "began": "offline" }))
            .collect();
        notification(message_type::FLEET_INCIDENT, &json!({ "seq": 1, "agents": agents, "more": 7 }))
    }

    #[test]
    fn a_webhook_gets_the_message_as_it_is() {
        let one = of_many(3, "a");
        assert_eq!(read(ChannelKind::Webhook, &one), one.to_json());
    }

    #[test]
    fn a_body_is_cut_by_agents_from_the_end_and_counts_them() {
        let many = of_many(5_000, "é\"");
        let body = render(ChannelKind::Webhook, &many);
        assert!((BODY_LIMIT - 300..=BODY_LIMIT).contains(&body.len()), "{}", body.len());
        let data = &read(ChannelKind::Webhook, &many)["data"];
        let named = data["agents"].as_array().unwrap();
        assert_eq!(named[..2], many.data["agents"].as_array().unwrap()[..2]);
        assert_eq!(data["more"].as_u64(), Some(7 + 5_000 - named.len() as u64));
    }

    #[test]
    fn a_body_that_is_too_long_by_its_boards_loses_boards() {
        let boards: Vec<Value> = (0..400).map(|it| json!({ "board_id": it, "x": "y".repeat(60) })).collect();
        let data = json!({ "agents": [{ "name": "a" }], "boards": boards });
        let one = notification(message_type::FLEET_INCIDENT, &data);
        assert!(render(ChannelKind::Webhook, &one).len() <= BODY_LIMIT);
        let data = &read(ChannelKind::Webhook, &one)["data"];
        let left = data["boards"].as_array().unwrap().len() as u64;
        assert_eq!(data["more_boards"].as_u64(), Some(400 - left));
        assert!(left > 100, "{left}");
    }

    #[test]
    fn a_strangers_name_is_text_and_nothing_else() {
        let agent = json!({ "id": uuid::Uuid::nil(), "name": HOSTILE, "board_id": null });
        let types =
            [message_type::AGENT_OFFLINE, message_type::AGENT_RECOVERED, message_type::AGENT_FLAPPING];
        for message_type in types {
            let one = notification(message_type, &json!({ "agent": agent, "agents": [agent] }));
            let slack = read(ChannelKind::Slack, &one);
            assert_eq!(slack["unfurl_links"], false);
            let text = slack["text"].as_str().unwrap();
            let name = "`[x](https://evil.example) &lt;!here&gt; @everyone 'a'*b*`";
            assert_eq!(text.matches(name).count(), 2, "{text}");
            assert!(!text.contains('<'), "{text}");
            let discord = read(ChannelKind::Discord, &one);
            assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));
            let text = discord["content"].as_str().unwrap();
            assert_eq!(
                text.matches("`[x](https://evil.example) <!here> @everyone 'a'*b*`").count(),
                2,
                "{text}"
            );
        }
    }

    #[test]
    fn texts_for_people_are_cut_by_agents_and_count_them() {
        for (kind, field, limit) in
            [(ChannelKind::Slack, "text", SLACK_LIMIT), (ChannelKind::Discord, "content", DISCORD_LIMIT)]
        {
            let body = read(kind, &of_many(400, "🦀<"));
            let text = body[field].as_str().unwrap();
            let length = text.encode_utf16().count().min(text.chars().count().max(limit));
            assert!(length <= limit, "{length}");
            let named = text.matches('•').count();
            assert!(named > 30, "{named}");
            assert!(text.ends_with(&format!("\n… and {} more", 407 - named)), "{text}");
        }
    }

    #[test]
    fn a_message_of_a_type_that_came_later_is_a_plain_sentence() {
        let one =
            notification("agent.<new>`", &json!({ "agent": "x", "agents": 7, "url": "javascript:alert(1)" }));
        assert_eq!(read(ChannelKind::Discord, &one)["content"], "Rollcall tells `agent.<new>'`.");
        assert_eq!(read(ChannelKind::Slack, &one)["text"], "Rollcall tells `agent.&lt;new&gt;'`.");
    }

    #[test]
    fn which_channel_is_disabled_is_told_and_why() {
        for (label, reason, text) in [
            (json!("ops `1`"), "gone", "`ops '1'` is disabled, since its receiver says that it is gone"),
            (
                json!(null),
                "failing",
                "`https://a…bcde` is disabled, since its receiver has taken nothing for days",
            ),
            (json!(""), "?", "`https://a…bcde` is disabled"),
        ] {
            let channel = json!({ "id": uuid::Uuid::nil(), "label": label, "target": "https://a…bcde" });
            let one = notification(
                message_type::CHANNEL_DISABLED,
                &json!({ "channel": channel, "reason": reason }),
            );
            let told = format!("The channel {text}: nothing is sent to it any more.");
            assert_eq!(read(ChannelKind::Discord, &one)["content"], told);
        }
    }

    #[test]
    fn what_happened_is_told_with_its_figures() {
        let incident = json!({
            "total": 120, "counts": { "error": 20, "offline": 100 }, "share_percent": 60, "mass": true, "more": 119,
            "agents": [{ "name": "a", "began": "offline", "ended": null, "cause": null }],
            "fleet": { "agents": 200, "live": 80 },
        });
        let text =
            &read(ChannelKind::Discord, &notification(message_type::FLEET_INCIDENT, &incident))["content"];
        assert_eq!(
            text.as_str().unwrap(),
            "120 agents are in trouble: 20 broken, 100 silent. That is 60% of the fleet: perhaps they have one cause. \
             Live: 80 of 200.\n• `a`: silent\n… and 119 more"
        );
        let data = json!({
            "agent": { "name": "builder-1" }, "began": "offline", "ended": null,
            "last_seen_at": "2026-11-25T22:54:22.622Z", "missed_heartbeats": 3,
            "fleet": { "agents": 200, "live": 199 }, "url": "https://rollcall.example/#/agents/1",
        });
        let text = &read(ChannelKind::Slack, &notification(message_type::AGENT_OFFLINE, &data))["text"];
        assert_eq!(
            text.as_str().unwrap(),
            "`builder-1` is silent since 2026-11-25T22:54:22.622Z, 3 heartbeats missed. Live: 199 of 200.\n\
             <https://rollcall.example/#/agents/1>"
        );
        let data =
            json!({ "agent": { "name": "builder-1" }, "began": null, "ended": "error", "cause": "worse" });
        let text = &read(ChannelKind::Slack, &notification(message_type::AGENT_RECOVERED, &data))["text"];
        assert_eq!(text.as_str().unwrap(), "`builder-1` is no longer broken: something worse began.");
    }
}
