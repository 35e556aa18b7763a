//! `POST /api/agents/heartbeats` and `/api/v1/agents/heartbeats`: the heartbeats of many agents behind one gateway.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use lambda_http::Request;
use serde::Serialize;
use shared::config::Setting::{
    AgentsTable, EventsTable, MaxPromise, PendingRetention, RateLimit, SystemEventRetention, TokensTable,
};
use shared::domain::agent::{Agent, AgentId};
use shared::domain::check_in::{Call, Caller, HealthReport};
use shared::domain::credential::{ApiKey, Credential, TokenKind};
use shared::domain::heartbeat::Health;
use shared::domain::ids::BoardId;
use shared::domain::report::Report;
use shared::domain::token::Operator;
use shared::runtime::app::App;
use shared::runtime::callers::UNKNOWN_KEY;
use shared::runtime::function::Endpoint;
use shared::runtime::respond::{log_failure, request_id};
use shared::time::Timestamp;
use shared::wire::answer::Answer;
use shared::wire::contract::Contract;
use shared::wire::error::{ApiError, ErrorKind, Invalid};
use shared::wire::json::{Json, Object};
use shared::wire::mission_control::DirectiveRead;
use shared::wire::route::route;
use shared::wire::{credentials, envelope, fields, mission_control, report};
use tokio::time::{Instant, timeout_at};

use crate::enroll::{Heard, Named, Sponsor};
use crate::heartbeat::in_place_of;

/// The function and what it reads.
pub const FUNCTION: Endpoint = Endpoint {
    name: "post-heartbeats",
    reads: &[
        AgentsTable,
        EventsTable,
        TokensTable,
        RateLimit,
        MaxPromise,
        PendingRetention,
        SystemEventRetention,
    ],
    handler: |app, request, now| Box::pin(handle(app, request, now)),
};

/// How many heartbeats one call may carry.
const MOST: usize = 100;

/// How many agents' heartbeats are under way at once.
const AT_ONCE: usize = 16;

/// After so many unknown keys each further key is looked up before it is tried: a read costs a fifth of the write that an
/// invented key would cost, and whoever comes after a gateway's removed agents is heard all the same.
const UNKNOWN_KEYS: usize = 3;

/// What is left of the request's time for the answer, when the heartbeats have taken the rest.
const FOR_THE_ANSWER: Duration = Duration::from_millis(500);

const NEEDS_A_TOKEN: ErrorKind =
    ErrorKind::Forbidden("a heartbeat by name needs an enrollment or operator token in the header");
const NEEDS_AN_OPERATOR: ErrorKind =
    ErrorKind::Forbidden("a heartbeat by an agent's id needs an operator's token in the header");

/// How an item says whose heartbeat it is.
enum Sender {
    Key(ApiKey),
    Name(Named),
    Id(AgentId),
}

/// One item: `{"agent_token" | "name", "board_id"? | "agent_id", "status"?, "report"?}`, in the envelope `{"apiKey" |
/// "name", "boardId"? | "agentId", "status", "report"?}`.
struct Heartbeat {
    sender: Sender,
    health: HealthReport,
    report: Option<Report>,
}

impl Heartbeat {
    fn read(app: &App, body: &Object<'_>, contract: Contract) -> Result<Self, Invalid> {
        let (camel, snake) = (["apiKey", "agentId", "boardId"], ["agent_token", "agent_id", "board_id"]);
        let (names, others) = match contract {
            Contract::Envelope => (camel, snake),
            Contract::MissionControl => (snake, camel),
        };
        body.refuse_spellings(&std::array::from_fn::<_, 3, _>(|index| (others[index], names[index])))?;
        let [key_name, id_name, board_name] = names;
        let key = body.string(key_name)?.map(|key| {
            ApiKey::parse(&key).ok_or_else(|| body.invalid(key_name, "must be 48 hexadecimal characters"))
        });
        let agent_id = body.uuid(id_name)?.map(AgentId::of);
        let board_id = body.uuid(board_name)?.map(BoardId::of);
        let sender = match (key.transpose()?, agent_id, fields::name(body)?) {
            (Some(key), None, None) => Sender::Key(key),
            (None, Some(agent_id), None) => Sender::Id(agent_id),
            (None, None, Some(name)) => Sender::Name(Named { name, board_id }),
            _ => {
                let problem = format!("exactly one of {key_name}, {id_name} and name is required");
                return Err(body.invalid(key_name, problem));
            }
        };
        let health = match contract {
            Contract::Envelope => fields::health_in_envelope(body)?,
            Contract::MissionControl => fields::health(body)?,
        };
        let report = report::strict(body, contract, *app.config.max_promise.get())?;
        Ok(Self { sender, health, report })
    }
}

/// The body, `{"heartbeats": […]}`: each one good or refused, in order.
fn read(app: &App, body: Json<'_>, contract: Contract) -> Result<Vec<Result<Heartbeat, Invalid>>, Invalid> {
    let body = body.object()?;
    let heartbeats = body.list("heartbeats")?.unwrap_or_default();
    if !(1..=MOST).contains(&heartbeats.len()) {
        return Err(body.invalid("heartbeats", "must hold 1 to 100 heartbeats"));
    }
    let read = |(index, raw)| Heartbeat::read(app, &body.element("heartbeats", index, raw)?, contract);
    Ok(heartbeats.into_iter().enumerate().map(read).collect())
}

/// Who sends the batch, by the header's credential: what it may do for its items.
enum Gateway {
    /// An agent: it passes on what agents say by their keys.
    Agent,
    /// A token, which also knows agents by name; an operator's also by their ids.
    Token(Box<Sponsor>),
}

impl Gateway {
    async fn of(app: &App, request: &Request, now: Timestamp) -> Result<Self, ApiError> {
        match credentials::credential(request.headers())? {
            Credential::Agent(key) => app.agent_of_key(&key, now).await.map(|_| Self::Agent),
            Credential::Token(token) => Ok(Self::Token(Box::new(Sponsor::of(app, token, now).await?))),
        }
    }

    /// Whose heartbeat this is, and by what right; or why this gateway may not pass it on.
    fn admit(&self, sender: Sender) -> Result<(AgentId, Right<'_>), ErrorKind> {
        match (sender, self) {
            (Sender::Key(key), _) => Ok((AgentId::of_key(&key), Right::Key(key))),
            (Sender::Name(named), Self::Token(sponsor)) => {
                Ok((sponsor.agent_id(&named), Right::Name(sponsor, named)))
            }
            (Sender::Id(agent_id), Self::Token(sponsor)) if sponsor.row.token_kind == TokenKind::Operator => {
                Ok((agent_id, Right::Operator(sponsor.row.operator())))
            }
            (Sender::Name(_), Self::Agent) => Err(NEEDS_A_TOKEN),
            (Sender::Id(_), _) => Err(NEEDS_AN_OPERATOR),
        }
    }
}

/// By what right the gateway passes a heartbeat on.
enum Right<'a> {
    /// The agent's own key.
    Key(ApiKey),
    /// The token in the header, which knows the agent by this name, or creates it.
    Name(&'a Sponsor, Named),
    /// The operator's token in the header.
    Operator(Operator),
}

/// A heartbeat that the gateway may pass on, and its place in the batch.
struct Admitted<'a> {
    index: usize,
    right: Right<'a>,
    health: HealthReport,
    report: Option<Report>,
}

type Outcome = Result<Heard, ApiError>;

/// A batch on its way.
struct Batch<'a> {
    app: &'a App,
    unknown_keys: AtomicUsize,
    /// What came of each item; empty until then.
    outcomes: Vec<OnceLock<Outcome>>,
    now: Timestamp,
}

impl Batch<'_> {
    /// One agent's heartbeats, in their order.
    async fn hear_agent(&self, agent_id: AgentId, heartbeats: Vec<Admitted<'_>>) {
        for heartbeat in heartbeats {
            let index = heartbeat.index;
            let outcome = self.hear(agent_id, heartbeat).await;
            self.outcomes[index].get_or_init(|| outcome);
        }
    }

    async fn hear(&self, agent_id: AgentId, heartbeat: Admitted<'_>) -> Outcome {
        let Admitted { right, health, report, .. } = heartbeat;
        let (reports, report) = (report.is_some(), report.unwrap_or_default());
        let call = Call::Heartbeat { health, report };
        match right {
            Right::Key(key) => {
                if self.unknown_keys.load(Ordering::Relaxed) >= UNKNOWN_KEYS {
                    self.app.agent_of_key(&key, self.now).await?;
                }
                let heard = self.app.check_in_if_known(&Caller::Key(key), call, self.now).await?;
                let (agent, quota) = heard.ok_or_else(|| {
                    self.unknown_keys.fetch_add(1, Ordering::Relaxed);
                    UNKNOWN_KEY
                })?;
                Ok(Heard::Renewed(agent, quota))
            }
            Right::Name(sponsor, named) => sponsor.hear(self.app, named, health, report, self.now).await,
            Right::Operator(operator) => {
                let caller = in_place_of(self.app, operator, agent_id, reports, self.now).await?;
                let (agent, quota) = self.app.check_in(&caller, call, self.now).await?;
                Ok(Heard::Renewed(agent, quota))
            }
        }
    }
}

/// Renews the lease of each item's agent, as if the item had come by itself: n requests to DynamoDB and n write units, and
/// one read of the header's credential.
///
/// # Errors
/// 401 or 403 without a valid credential in the header, 400 or 422 if there are not 1 to 100 items. An item's error is in
/// its own place, and fails no other: see [`App::check_in`].
pub async fn handle(app: &App, request: Request, now: Timestamp) -> Result<Answer, ApiError> {
    let deadline = Instant::now() + app.request_budget.saturating_sub(FOR_THE_ANSWER);
    let contract = Contract::of(route(&request));
    let heartbeats = read(app, fields::json(&request)?, contract);
    if contract == Contract::Envelope
        && let Err(invalid) = heartbeats
    {
        return Err(invalid.into());
    }
    let gateway = Gateway::of(app, &request, now).await?;
    let outcomes = hear_all(app, &gateway, heartbeats?, deadline, now).await;
    log_failures(&outcomes, &request);
    match contract {
        Contract::Envelope => {
            Ok(envelope::data(&Results::of(&outcomes, |outcome| in_envelope(outcome, now)))?)
        }
        Contract::MissionControl => {
            Ok(mission_control::body(&Results::of(&outcomes, |outcome| in_mission_control(outcome, now)))?)
        }
    }
}

/// What comes of each heartbeat, in order. Those that the deadline finds under way, or waiting, may have happened.
async fn hear_all(
    app: &App,
    gateway: &Gateway,
    heartbeats: Vec<Result<Heartbeat, Invalid>>,
    deadline: Instant,
    now: Timestamp,
) -> Vec<Outcome> {
    let outcomes = heartbeats.iter().map(|_| OnceLock::new()).collect();
    let batch = Batch { app, unknown_keys: AtomicUsize::new(0), outcomes, now };
    let mut agents: Vec<(AgentId, Vec<Admitted<'_>>)> = Vec::new();
    for (index, heartbeat) in heartbeats.into_iter().enumerate() {
        let admitted = heartbeat.map_err(ErrorKind::from).and_then(|heartbeat| {
            let Heartbeat { sender, health, report } = heartbeat;
            let (agent_id, right) = gateway.admit(sender)?;
            Ok((agent_id, Admitted { index, right, health, report }))
        });
        match admitted {
            Ok((agent_id, heartbeat)) => match agents.iter_mut().find(|(other, _)| *other == agent_id) {
                Some((_, heartbeats)) => heartbeats.push(heartbeat),
                None => agents.push((agent_id, vec![heartbeat])),
            },
            Err(error) => {
                batch.outcomes[index].get_or_init(|| Err(error.into()));
            }
        }
    }
    let all = stream::iter(agents)
        .for_each_concurrent(AT_ONCE, |(agent_id, heartbeats)| batch.hear_agent(agent_id, heartbeats));
    // What was done by then stands in its place.
    timeout_at(deadline, all).await.ok();
    let in_time = |outcome: OnceLock<Outcome>| {
        outcome
            .into_inner()
            .unwrap_or_else(|| Err(ErrorKind::Unavailable("the batch's time is over".to_owned()).into()))
    };
    batch.outcomes.into_iter().map(in_time).collect()
}

/// Each cause once: an outage fails all items for the same one.
fn log_failures(outcomes: &[Outcome], request: &Request) {
    let mut logged: Vec<&str> = Vec::new();
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        if let Some(cause) = error.kind.cause()
            && !logged.contains(&cause)
        {
            log_failure(&error.kind, &request_id(request));
            logged.push(cause);
        }
    }
}

#[derive(Serialize)]
struct Results<One> {
    results: Vec<One>,
}

impl<'a, One> Results<One> {
    fn of(outcomes: &'a [Outcome], show: impl Fn(&'a Outcome) -> One) -> Self {
        Self { results: outcomes.iter().map(show).collect() }
    }
}

/// An item's answer, or why it was refused.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<Read, Refusal> {
    Heard(Read),
    Refused { error: Refusal },
}

/// What the envelope says of an item.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeardInEnvelope {
    agent_id: AgentId,
    status: Option<Health>,
    interval_seconds: u64,
    lease_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

/// What Mission Control's contract says of it.
#[derive(Serialize)]
struct HeardInMissionControl {
    id: AgentId,
    status: &'static str,
    interval_seconds: u64,
    lease_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directive: Option<DirectiveRead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_token: Option<String>,
}

/// The agent as it is now, and its key if it is new: this once.
fn agent_and_key(heard: &Heard) -> (&Agent, Option<String>) {
    match heard {
        Heard::Renewed(agent, _) => (agent, None),
        Heard::Created(agent, key) => (agent, Some(key.reveal())),
    }
}

fn in_envelope(outcome: &Outcome, now: Timestamp) -> Shown<HeardInEnvelope, envelope::PartRefusal> {
    let (agent, api_key) = match outcome {
        Ok(heard) => agent_and_key(heard),
        Err(error) => return Shown::Refused { error: envelope::PartRefusal::of(error, now) },
    };
    Shown::Heard(HeardInEnvelope {
        agent_id: agent.agent_id,
        status: agent.health,
        interval_seconds: agent.heartbeat().interval_seconds(),
        lease_expires_at: agent.lease().map(|end| end.to_string()),
        directive: DirectiveRead::told(agent, now),
        api_key,
    })
}

fn in_mission_control(
    outcome: &Outcome,
    now: Timestamp,
) -> Shown<HeardInMissionControl, mission_control::PartRefusal> {
    let (agent, agent_token) = match outcome {
        Ok(heard) => agent_and_key(heard),
        Err(error) => return Shown::Refused { error: mission_control::PartRefusal::of(error, now) },
    };
    Shown::Heard(HeardInMissionControl {
        id: agent.agent_id,
        status: agent.status(now),
        interval_seconds: agent.heartbeat().interval_seconds(),
        lease_expires_at: agent.lease().map(|end| end.to_string()),
        directive: DirectiveRead::told(agent, now),
        agent_token,
    })
}
