//! What an operator may ask of Rollcall, and what goes wrong.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;
use ureq::http::Method;

use crate::environment::{self, Secret};
use crate::http::{Answer, Client};

/// Agents on one page of a list.
const PAGE: usize = 200;

/// Why a verb did not do what it should: what to do about it is part of the text.
#[derive(Debug)]
pub enum Failure {
    /// The arguments or the environment are wrong: 2.
    Usage(String),
    /// There is no such thing, or more than one: 3.
    NotFound(String),
    /// Rollcall said no, or to some: 1.
    Refused(String),
    /// Who asks may not: 1.
    NotAllowed(String),
    /// There was no answer: 4.
    Unreachable(String),
}

impl Failure {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::NotAllowed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }

    /// Whether the same may be answered in a moment.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unreachable(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text)
        | Self::NotFound(text)
        | Self::Refused(text)
        | Self::NotAllowed(text)
        | Self::Unreachable(text)) = self;
        f.write_str(text)
    }
}

/// Rollcall, as an operator reaches it.
pub struct Api {
    client: Client,
    token: Secret,
}

impl Api {
    /// # Errors
    /// The environment does not say where Rollcall is, or who asks.
    pub fn from_environment(insecure_http: bool) -> Result<Self, Failure> {
        let client = Client::from_environment(insecure_http).map_err(Failure::Usage)?;
        let token = environment::secret(environment::OPERATOR_TOKEN).map_err(Failure::Usage)?;
        let token = token.ok_or_else(|| {
            Failure::Usage(
                "ROLLCALL_OPERATOR_TOKEN is not set. `cargo run` prints the line that sets it; a deployment's \
                 first one is made by `aws lambda invoke` of mint-token"
                    .to_owned(),
            )
        })?;
        Ok(Self { client, token })
    }

    pub fn base(&self) -> &str {
        self.client.base()
    }

    pub const fn token(&self) -> &Secret {
        &self.token
    }

    /// # Errors
    /// There was no answer, or a refusal.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(&Method::GET, path, None)
    }

    /// # Errors
    /// There was no answer, or a refusal.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call(&Method::POST, path, Some(body))
    }

    /// # Errors
    /// There was no answer, or a refusal.
    pub fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.client.call(method, path, &self.token, body);
        let answer = answer.map_err(|lost| {
            Failure::Unreachable(format!("no answer from {}: {lost}. Is ROLLCALL_URL right?", self.base()))
        })?;
        match answer.status {
            200 if answer.body.is_object() => Ok(answer.body),
            200 => Err(self.not_rollcall()),
            _ => Err(self.refusal(&answer)),
        }
    }

    fn not_rollcall(&self) -> Failure {
        Failure::Unreachable(format!(
            "{} answers, and not as Rollcall does. Is ROLLCALL_URL right?",
            self.base()
        ))
    }

    fn refusal(&self, answer: &Answer) -> Failure {
        // Whoever answered may have repeated it.
        let problem = answer.problem().replace(self.token.reveal(), "(the token)");
        match (answer.status, answer.message()) {
            (_, None) => Failure::Unreachable(format!("{problem}. Is ROLLCALL_URL ({}) right?", self.base())),
            (401, _) => Failure::NotAllowed(format!(
                "{problem}. Set ROLLCALL_OPERATOR_TOKEN to an operator's token that has not ended"
            )),
            (403, _) => {
                Failure::NotAllowed(format!("{problem}. `rollcall tokens self` says what this token may do"))
            }
            (404, _) => Failure::NotFound(problem),
            (429 | 503, _) => Failure::Refused(format!("{problem}. Try again in a moment")),
            _ => Failure::Refused(problem),
        }
    }

    /// All agents that match a query, by as many pages as it takes.
    ///
    /// # Errors
    /// There was no answer, or a refusal.
    pub fn agents(&self, query: &[(&str, &str)]) -> Result<Vec<Value>, Failure> {
        // By name there is no cursor.
        let by_offset = query.iter().any(|(name, _)| *name == "name");
        let (mut agents, mut cursor) = (Vec::new(), String::new());
        let mut progress = Progress::default();
        loop {
            let offset = agents.len().to_string();
            let place = if by_offset { ("offset", offset.as_str()) } else { ("cursor", cursor.as_str()) };
            let pairs = query.iter().copied().chain([("detail", "true"), place]);
            let mut page = self.get(&format!("/api/v1/agents?{}", encoded(pairs)))?;
            let Value::Array(items) = page["items"].take() else { return Err(self.not_rollcall()) };
            let is_short = items.len() < PAGE;
            agents.extend(items);
            match page["next"].as_str() {
                Some(next) if !by_offset => next.clone_into(&mut cursor),
                None if by_offset && !is_short => {}
                _ => break,
            }
            progress.says(&format!("{} agents", agents.len()));
        }
        Ok(agents)
    }

    /// The agent that an id or a name means.
    ///
    /// # Errors
    /// There is none, or more than one; or no answer.
    pub fn agent(&self, id_or_name: &str) -> Result<Value, Failure> {
        if is_uuid(id_or_name) {
            return self.get(&format!("/api/v1/agents/{id_or_name}?detail=true"));
        }
        let mut agents = self.agents(&[("name", id_or_name)])?;
        agents.retain(|agent| agent["name"] == id_or_name);
        match agents.len() {
            1 => Ok(agents.remove(0)),
            0 => Err(Failure::NotFound(format!(
                "no agent is named {id_or_name:?}; `rollcall agents --name PREFIX` lists those that begin so"
            ))),
            _ => {
                let ids = agents.iter().filter_map(|agent| agent["id"].as_str()).collect::<Vec<_>>();
                Err(Failure::NotFound(format!(
                    "{} agents are named {id_or_name:?}: say which by its id, {}",
                    ids.len(),
                    ids.join(" or ")
                )))
            }
        }
    }

    /// The id of what is meant in a list by its id, or by a label that nothing else there has.
    ///
    /// # Errors
    /// There is none, or more than one; or no answer.
    pub fn labelled(&self, path: &str, what: &str, id_or_label: &str) -> Result<String, Failure> {
        if is_uuid(id_or_label) {
            return Ok(id_or_label.to_owned());
        }
        let list = self.get(path)?;
        let items = list["items"].as_array().into_iter().flatten();
        let ids = items.filter(|item| item["label"] == id_or_label).filter_map(|item| item["id"].as_str());
        let ids = ids.collect::<Vec<_>>();
        match ids[..] {
            [id] => Ok(id.to_owned()),
            [] => Err(Failure::NotFound(format!(
                "no {what} is labelled {id_or_label:?}; `rollcall {what}s` lists them"
            ))),
            _ => Err(Failure::NotFound(format!(
                "{} {what}s are labelled {id_or_label:?}: say which by its id, {}",
                ids.len(),
                ids.join(" or ")
            ))),
        }
    }
}

/// Whether a text is an id of Rollcall's.
pub fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

/// A query of these pairs.
pub fn encoded<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A line that says how far a long task is, where somebody looks.
#[derive(Default)]
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    pub fn says(&mut self, text: &str) {
        if io::stderr().is_terminal() {
            self.is_shown = true;
            write!(io::stderr(), "\r{text} …\x1b[K").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
