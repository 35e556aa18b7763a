//! The console: one line for each agent that died or is back, and for each message that people are told.

use std::io::{self, Write as _};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use serde_json::Value;
use shared::domain::event::EventType;
use shared::domain::event::kind::{AGENT_NEVER_SEEN, AGENT_OFFLINE, AGENT_ONLINE};
use shared::domain::message::{Message, View};
use shared::domain::notification::{MESSAGES, Notification};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A client whose transitions are told on standard output.
///
/// They are taken from the transactions that record them, so the functions know nothing of it.
pub(crate) fn watched(client: &Client) -> Client {
    let Some(connections) = client.config().http_client() else {
        unreachable!("every client is made with connections of its own")
    };
    let (news, mut heard) = unbounded_channel::<News>();
    let names = client.clone();
    tokio::spawn(async move {
        while let Some(news) = heard.recv().await {
            let line = match news {
                News::Transition(transition) => {
                    let name = transition.name(&names).await;
                    transition.line(name.as_deref())
                }
                News::Message(line) => line,
            };
            // `cargo run | head` goes on without a reader.
            writeln!(io::stdout(), "{line}").ok();
        }
    });
    let watching = http_client_fn(move |settings, components| {
        let connector = connections.http_connector(settings, components);
        SharedHttpConnector::new(Watching { connector, news: news.clone() })
    });
    Client::from_conf(client.config().to_builder().http_client(watching).build())
}

#[derive(Debug)]
struct Watching {
    connector: SharedHttpConnector,
    news: UnboundedSender<News>,
}

impl HttpConnector for Watching {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let recorded = News::recorded_by(&request);
        let answer = self.connector.call(request);
        let Some(recorded) = recorded else { return answer };
        let news = self.news.clone();
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            if answer.status().is_success() {
                // It has a receiver until the process ends.
                news.send(recorded).ok();
            }
            Ok(answer)
        })
    }
}

/// What a transaction records.
#[derive(Debug)]
enum News {
    Transition(Transition),
    /// A message that people are told, as its line.
    Message(String),
}

impl News {
    /// What this call records, if it is news.
    fn recorded_by(request: &HttpRequest) -> Option<Self> {
        let operation = request.headers().get("x-amz-target")?;
        let body = operation.ends_with(".TransactWriteItems").then(|| request.body().bytes())??;
        let body: Value = serde_json::from_slice(body).ok()?;
        let writes = body["TransactItems"].as_array()?;
        let message = writes.iter().find_map(|write| {
            let item = &write["Put"]["Item"];
            (item["alert_log"]["S"] == MESSAGES).then(|| item["content"]["S"].as_str())?
        });
        match message {
            Some(content) => Some(Self::Message(line_of(&serde_json::from_str(content).ok()?)?)),
            None => Transition::recorded_by(writes).map(Self::Transition),
        }
    }
}

/// A message's line: its number, its type, and of whom it is.
fn line_of(message: &Message) -> Option<String> {
    let Notification { message_type, data, .. } = message.seen_by(View::ALL)?;
    let whom = match (data.get("agent"), data.get("total")) {
        (Some(agent), _) => format!(" {:?}", agent["name"].as_str().unwrap_or_default()),
        (None, Some(total)) => format!(": {total} agents"),
        (None, None) => String::new(),
    };
    Some(format!("told #{}: {message_type}{whom}", message.seq))
}

/// An agent that died or is back.
#[derive(Debug)]
struct Transition {
    event_type: EventType,
    agent_id: String,
    payload: Value,
    /// The table of the agent's own row.
    agents: Option<String>,
}

impl Transition {
    /// The transition that these writes record, if it is one.
    fn recorded_by(writes: &[Value]) -> Option<Self> {
        let row = writes.iter().find_map(|write| write["Update"]["TableName"].as_str());
        writes.iter().find_map(|write| {
            let text = |name: &str| write["Put"]["Item"][name]["S"].as_str();
            let name = text("event_type")?;
            let is_it = |event_type: &EventType| event_type.as_str() == name;
            [AGENT_OFFLINE, AGENT_NEVER_SEEN, AGENT_ONLINE].into_iter().find(is_it).map(|event_type| Self {
                event_type,
                agent_id: text("agent_id").unwrap_or_default().to_owned(),
                payload: text("payload").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
                agents: row.map(str::to_owned),
            })
        })
    }

    /// The agent's name, if its row is still there.
    async fn name(&self, client: &Client) -> Option<String> {
        let id = AttributeValue::S(self.agent_id.clone());
        let request = client.get_item().table_name(self.agents.as_ref()?).key("agent_id", id);
        let answer = request.projection_expression("agent_name").send().await.ok()?;
        match answer.item?.remove("agent_name")? {
            AttributeValue::S(name) => Some(name),
            _ => None,
        }
    }

    /// The line. A name is a stranger's text: quoted as Rust does, it holds nothing that a terminal acts upon.
    fn line(&self, name: Option<&str>) -> String {
        let Self { event_type, agent_id, payload, .. } = self;
        let short_id = agent_id.split('-').next().unwrap_or_default();
        let said = |field: &str| payload[field].as_str().unwrap_or("?");
        let why = if *event_type == AGENT_ONLINE {
            String::new()
        } else if *event_type == AGENT_NEVER_SEEN {
            format!(": verified at {} and never seen", said("verified_at"))
        } else {
            format!(": {}, last seen at {}", said("reason"), said("last_seen_at"))
        };
        let event_type = event_type.as_str();
        format!("{event_type} {:?} ({short_id}){why}", name.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn transition(event_type: EventType, payload: Value) -> Transition {
        Transition {
            event_type,
            agent_id: "c235d4a1-5dc3-811c-901c-167e2f9b5eb9".to_owned(),
            payload,
            agents: None,
        }
    }

    #[test]
    fn who_never_came_is_told_as_well() {
        let line = transition(AGENT_NEVER_SEEN, json!({ "verified_at": "2026-11-21T21:56:18.032Z" }));
        let line = line.line(Some("researcher-1"));
        let told = "verified at 2026-11-21T21:56:18.032Z and never seen";
        assert_eq!(line, format!(r#"agent.never_seen "researcher-1" (c235d4a1): {told}"#));
    }

    #[test]
    fn a_message_is_told_by_its_number_and_of_whom_it_is() {
        let message = |content: Value| {
            let message =
                json!({ "seq": 7, "at": 1_700_000_000_000_i64, "base_url": "", "content": content });
            line_of(&serde_json::from_value(message).unwrap())
        };
        let member = json!({
            "id": "c235d4a1-5dc3-511c-901c-167e2f9b5eb9", "name": "\u{202e}x", "board_id": null, "began": "offline",
        });
        let details =
            json!({ "lag_ms": 0, "missed_heartbeats": 4, "interval_ms": 60_000, "tolerance_ms": 120_000 });
        let one = json!({ "about": "agent", "member": member, "details": details, "fleet": null });
        assert_eq!(message(one).as_deref(), Some(r#"told #7: agent.offline "\u{202e}x""#));
        let deaf = json!({ "about": "deaf", "since": 1_700_000_000_000_i64 });
        assert_eq!(message(deaf).as_deref(), Some("told #7: system.deaf"));
    }

    #[test]
    fn a_name_cannot_speak_to_the_terminal() {
        let line = transition(AGENT_ONLINE, json!({}));
        let line = line.line(Some("\u{1b}[2Ja\nb\u{9b}c\u{202e}d\" ü"));
        assert_eq!(line, r#"agent.online "\u{1b}[2Ja\nb\u{9b}c\u{202e}d\" ü" (c235d4a1)"#);
    }
}
