//! A channel's receiver: a real HTTP server that keeps what it was sent, and answers as it is told to.

use std::sync::{Arc, Mutex};

use hyper::HeaderMap;
use hyper::Response;

use super::document::DOCUMENT;
use super::loopback::{LoopbackServer, Request, whole};

/// A receiver on loopback.
pub struct Receiver {
    server: LoopbackServer,
    state: Arc<Mutex<State>>,
}

struct State {
    answer: Answer,
    received: Vec<Received>,
}

#[derive(Clone)]
enum Answer {
    Status(u16, Vec<(&'static str, String)>),
    Never,
}

/// What a receiver was sent.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: String,
}

impl Received {
    /// A header's text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        let state =
            Arc::new(Mutex::new(State { answer: Answer::Status(204, Vec::new()), received: Vec::new() }));
        let shared = state.clone();
        let server = LoopbackServer::start(move |request: Request| {
            let answer = {
                let mut state = shared.lock().expect("the receiver's state");
                let (head, body) = request.into_parts();
                state.received.push(Received {
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).expect("text"),
                });
                state.answer.clone()
            };
            async move {
                let Answer::Status(status, headers) = answer else {
                    return std::future::pending().await;
                };
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok(response.body(whole("")).expect("an answer"))
            }
        })
        .await;
        Self { server, state }
    }

    /// One that answers with this status.
    pub async fn answering(status: u16) -> Self {
        let receiver = Self::start().await;
        receiver.answer(status);
        receiver
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.answer_with(status, &[]);
    }

    /// Answers with this status and these headers from now on.
    pub fn answer_with(&self, status: u16, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.set(Answer::Status(status, headers));
    }

    /// Takes requests from now on, and never answers.
    pub fn hang(&self) {
        self.set(Answer::Never);
    }

    fn set(&self, answer: Answer) {
        self.state.lock().expect("the receiver's state").answer = answer;
    }

    /// Its URL, with a path that nobody guesses.
    pub fn url(&self) -> String {
        format!("http://{}/services/T0-secret-path-{}", self.server.address(), self.server.address().port())
    }

    /// What it was sent since this was last asked. A webhook is sent what docs/openapi.yaml says; what Slack and Discord
    /// are sent is theirs to say.
    #[track_caller]
    pub fn take(&self) -> Vec<Received> {
        let received = std::mem::take(&mut self.state.lock().expect("the receiver's state").received);
        for message in received.iter().filter(|message| message.headers.contains_key("webhook-id")) {
            if let Err(problem) = DOCUMENT.judge_message(&message.headers, &message.body) {
                panic!("a webhook was sent a message against the document: {problem}\n{}", message.body);
            }
        }
        received
    }
}
