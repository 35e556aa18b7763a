//! What an operator's token may do: viewers' tokens see everything and change nothing, a token of one board reaches that
//! board's agents and tokens alone. Every route that there is, and every one to come, is walked.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    AGENTS, BOARD, Client, HEARTBEAT_BY_NAME, NO_AGENT, OTHER_BOARD, TOKENS, agent_path, agent_read, invalid,
    refusal, refused, text, with_key,
};
use crate::support::{Reply, Row, TestAgent, TestSystem};

const SILENCES: &str = "/api/v1/silences";

/// Routes under `/api/v1/` that take an agent's key and no operator's token.
const OF_AGENTS: [&str; 2] = ["/api/v1/agent/heartbeat", "/api/v1/agent/healthz"];

fn routes() -> impl Iterator<Item = (Method, &'static str)> {
    let routes = functions::ROUTES.iter().filter(|(_, path, _)| path.starts_with("/api/v1/"));
    let routes = routes.filter(|(_, path, _)| !OF_AGENTS.contains(path));
    routes.map(|(method, path, _)| (method.parse().expect("a method"), *path))
}

/// A token with these fields.
async fn token(system: &TestSystem, fields: Value) -> String {
    let mut request = json!({ "kind": "operator" });
    request.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
    text(&system.mint(&request).await, "token")
}

/// All that is stored, but for the notes of tokens' uses.
async fn stored(system: &TestSystem) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in ["AgentsTable", "EventsTable", "WindowsTable", "TokensTable"] {
        rows.extend(system.rows(table).await);
    }
    for row in &mut rows {
        row.remove("last_used_at");
    }
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

#[tokio::test]
async fn a_viewer_reads_by_every_route_and_changes_by_none() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    let agent = operator.create(&json!({ "name": "a" })).await;
    let viewer = Client::bearer(&system, &token(&system, json!({ "role": "viewer" })).await);
    let before = stored(&system).await;
    for (method, path) in routes() {
        let place = path.replace("{agent_id}", &agent.id).replace("{id}", NO_AGENT);
        let body = json!({ "name": "b", "kind": "operator" }).to_string();
        let reply = viewer
            .send(method.clone(), &place, if method == Method::GET { String::new() } else { body })
            .await;
        if method == Method::GET {
            assert!(![401, 403].contains(&reply.status), "{method} {path}: {}", reply.text);
        } else {
            assert_eq!(
                refusal(&reply),
                (403, "a viewer's token changes nothing".to_owned()),
                "{method} {path}"
            );
        }
    }
    assert_eq!(stored(&system).await, before, "a viewer changes nothing");
}

#[tokio::test]
async fn a_viewer_approves_nobody() {
    let system = TestSystem::with().parameter("Approval", "operator").start().await;
    let agent = system.registered("waits").await;
    let bearer = format!("Bearer {}", token(&system, json!({ "role": "viewer" })).await);
    let headers = [("x-agent-token", agent.key.as_str()), ("authorization", bearer.as_str())];
    let reply = system.send(Method::POST, "/api/agents/verify", &headers, "").await;
    assert_eq!(reply.refusal(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(agent_state(&system, &agent.id).await, "pending");
}

async fn agent_state(system: &TestSystem, id: &str) -> String {
    let shown = Client::operator(system).await.get(&agent_path(id, "?detail=true")).await.json();
    text(&shown["detail"], "state")
}

#[tokio::test]
async fn an_operator_of_a_board_reaches_no_other_boards_agent() {
    let system = TestSystem::start().await;
    let everywhere = Client::operator(&system).await;
    let others = [json!(OTHER_BOARD), Value::Null];
    let boards = Client::bearer(&system, &token(&system, json!({ "board_id": BOARD })).await);
    let foreign = |reply: &Reply| refusal(reply) == (403, "the token is for another board".to_owned());
    let own = everywhere.create(&json!({ "name": "own", "board_id": BOARD })).await;
    // What one of the routes requires, and the others ignore.
    let wanted = r#"{"action": "pause"}"#;
    for board_id in others {
        let agent = everywhere.create(&json!({ "name": "others", "board_id": board_id })).await;
        let before = stored(&system).await;
        for (method, path) in routes().filter(|(_, path)| path.contains("{agent_id}")) {
            let reply = boards.send(method.clone(), &path.replace("{agent_id}", &agent.id), wanted).await;
            assert!(foreign(&reply), "{method} {path}: {}", reply.text);
        }
        assert_eq!(stored(&system).await, before, "nobody changed anything");
    }
    // Its own it reaches by all of them: in an order that leaves the agent there to the end.
    let mut mine: Vec<_> = routes().filter(|(_, path)| path.contains("{agent_id}")).collect();
    mine.sort_by_key(|(method, _)| *method == Method::DELETE);
    for (method, path) in mine {
        let reply = boards.send(method.clone(), &path.replace("{agent_id}", &own.id), "").await;
        assert!(![401, 403, 404].contains(&reply.status), "{method} {path}: {}", reply.text);
        if path.ends_with("/revoke") {
            boards.touch(&agent_path(&own.id, "/restore")).await;
        }
    }
    assert_eq!(refused(&boards.get(&agent_path(NO_AGENT, "")).await), 404);
}

#[tokio::test]
async fn what_no_agent_is_named_by_is_the_boards_own() {
    let system = TestSystem::start().await;
    let everywhere = Client::operator(&system).await;
    let board = token(&system, json!({ "board_id": BOARD })).await;
    let boards = Client::bearer(&system, &board);
    let others = everywhere.create(&json!({ "name": "others", "board_id": OTHER_BOARD })).await;
    let fleets = system.mint(&json!({ "kind": "enrollment", "all_boards": true })).await;
    let mut routes: Vec<_> = routes().filter(|(_, path)| !path.contains("{agent_id}")).collect();
    // What makes something goes before what lists it.
    routes.sort_by_key(|(method, _)| *method != Method::POST);
    for (method, path) in routes {
        match (method.as_str(), path) {
            ("POST", AGENTS) => {
                let (shown, _) = with_key(&boards.post(AGENTS, &json!({ "name": "new" })).await);
                assert_eq!(shown["board_id"], BOARD, "an agent without a board is of the operator's");
                let elsewhere = json!({ "name": "new", "board_id": OTHER_BOARD });
                assert_eq!(refused(&boards.post(AGENTS, &elsewhere).await), 403);
            }
            ("GET", AGENTS) => {
                let listed = boards.get(AGENTS).await.json();
                assert_eq!((&listed["total"], &listed["items"][0]["name"]), (&json!(1), &json!("new")));
                for query in ["?cursor=", "?name=new", "?status=provisioning", &format!("?board_id={BOARD}")]
                {
                    let listed = boards.get(&format!("{AGENTS}{query}")).await.json();
                    assert_eq!(listed["items"].as_array().expect("a list").len(), 1, "{query}");
                }
                assert_eq!(refused(&boards.get(&format!("{AGENTS}?board_id={OTHER_BOARD}")).await), 403);
            }
            ("POST", HEARTBEAT_BY_NAME) => {
                let (shown, agent) = with_key(&boards.heartbeat_as("by name").await);
                assert_eq!(shown["board_id"], BOARD);
                let elsewhere = json!({ "name": "by name", "board_id": OTHER_BOARD });
                assert_eq!(refused(&boards.post(HEARTBEAT_BY_NAME, &elsewhere).await), 403);
                let moved =
                    everywhere.patch(&agent_path(&agent.id, ""), &json!({ "board_id": OTHER_BOARD })).await;
                agent_read(&moved);
                assert_eq!(refused(&boards.heartbeat_as("by name").await), 403, "the agent was moved since");
            }
            ("POST", "/api/v1/agents/heartbeats") => {
                let batch = json!({ "heartbeats": [{ "agent_id": others.id }] });
                let results = boards.post(path, &batch).await.json();
                assert_eq!(results["results"][0]["error"]["status"], 403, "{results}");
            }
            ("POST", TOKENS) => {
                for kind in ["operator", "enrollment"] {
                    let minted = boards.post(TOKENS, &json!({ "kind": kind })).await.json();
                    assert_eq!(minted["board_id"], BOARD, "{kind}");
                    for elsewhere in [json!({ "board_id": OTHER_BOARD }), json!({ "all_boards": true })] {
                        let mut wanted = json!({ "kind": kind });
                        wanted
                            .as_object_mut()
                            .expect("an object")
                            .extend(elsewhere.as_object().expect("one").clone());
                        assert_eq!(refused(&boards.post(TOKENS, &wanted).await), 403, "{wanted}");
                    }
                }
            }
            ("GET", TOKENS) => {
                let listed = boards.get(TOKENS).await.json();
                let listed = listed["items"].as_array().expect("a list");
                assert!(
                    !listed.is_empty() && listed.iter().all(|token| token["board_id"] == BOARD),
                    "{listed:?}"
                );
            }
            ("GET", "/api/v1/tokens/self") => {
                let own = boards.get(path).await.json();
                assert_eq!((&own["board_id"], &own["role"]), (&json!(BOARD), &json!("operator")));
            }
            ("DELETE", "/api/v1/tokens/{id}") => {
                let place = format!("{TOKENS}/{}", text(&fleets, "id"));
                assert_eq!(refused(&boards.delete(&place).await), 403);
                assert!(
                    everywhere.get(TOKENS).await.text.contains(&text(&fleets, "id")),
                    "it is still there"
                );
                let own = boards.post(TOKENS, &json!({ "kind": "enrollment" })).await.json();
                assert_eq!(boards.delete(&format!("{TOKENS}/{}", text(&own, "id"))).await.status, 200);
            }
            (method, path) => of_alerts(&everywhere, &boards, &others, method, path).await,
        }
    }
    let out = json!({ "board_id": OTHER_BOARD });
    let own = boards.create(&json!({ "name": "stays" })).await;
    for moved in [out, json!({ "board_id": null })] {
        assert_eq!(refused(&boards.patch(&agent_path(&own.id, ""), &moved).await), 403, "{moved}");
    }
    assert_eq!(everywhere.show(&own).await["board_id"], BOARD);
    assert_eq!(everywhere.show(&others).await["board_id"], OTHER_BOARD);
}

/// The same for what is told.
async fn of_alerts(
    everywhere: &Client<'_>,
    boards: &Client<'_>,
    others: &TestAgent,
    method: &str,
    path: &str,
) {
    match (method, path) {
        ("GET", "/api/v1/fleet") => {
            let fleet = boards.get(path).await.json();
            assert_eq!((&fleet["agents"], &fleet["boards"]), (&json!(0), &json!([])), "no sweep yet");
        }
        ("GET", "/api/v1/alerts") => assert_eq!(boards.get(path).await.json()["items"], json!([])),
        ("POST", SILENCES) => {
            let own = json!({ "board_id": BOARD, "for_seconds": 60 });
            assert_eq!(boards.post(SILENCES, &own).await.status, 200);
            for scope in
                [json!({ "all": true }), json!({ "board_id": OTHER_BOARD }), json!({ "agent_id": others.id })]
            {
                let mut silence = json!({ "for_seconds": 60 });
                silence.as_object_mut().expect("one").extend(scope.as_object().expect("one").clone());
                assert_eq!(refused(&boards.post(SILENCES, &silence).await), 403, "{silence}");
            }
        }
        ("GET", SILENCES) => {
            let all = json!({ "all": true, "for_seconds": 60 });
            assert_eq!(everywhere.post(SILENCES, &all).await.status, 200);
            let listed = boards.get(SILENCES).await.json();
            assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
            assert_eq!(listed["items"][0]["board_id"], BOARD);
        }
        ("DELETE", "/api/v1/silences/{id}") => {
            let all = json!({ "all": true, "for_seconds": 60 });
            let all = everywhere.post(SILENCES, &all).await.json();
            assert_eq!(refused(&boards.delete(&format!("{SILENCES}/{}", text(&all, "id"))).await), 403);
        }
        (method, path) => of_channels(everywhere, boards, method, path).await,
    }
}

/// The same for whom is told. Whoever hears of all agents is of no board.
async fn of_channels(everywhere: &Client<'_>, boards: &Client<'_>, method: &str, path: &str) {
    const CHANNELS: &str = "/api/v1/channels";
    let body =
        |board: Value| json!({ "kind": "slack", "url": "https://receiver.example/", "board_id": board });
    let all = everywhere.post(CHANNELS, &body(Value::Null)).await.json();
    let path_of_all = path.replace("{id}", &text(&all, "id"));
    match (method, path) {
        ("POST", CHANNELS) => {
            assert_eq!(boards.post(CHANNELS, &body(json!(BOARD))).await.status, 200);
            for board in [Value::Null, json!(OTHER_BOARD)] {
                assert_eq!(refused(&boards.post(CHANNELS, &body(board)).await), 403);
            }
        }
        ("GET", CHANNELS) => {
            let listed = boards.get(CHANNELS).await.json();
            let items = listed["items"].as_array().expect("a list");
            assert!(items.iter().all(|channel| channel["board_id"] == BOARD), "{listed}");
        }
        ("PATCH", "/api/v1/channels/{id}") => {
            let reply = boards.patch(&path_of_all, &json!({ "board_id": BOARD })).await;
            assert_eq!(refused(&reply), 403);
        }
        ("DELETE" | "GET", _)
        | ("POST", "/api/v1/channels/{id}/test" | "/api/v1/channels/{id}/redeliver") => {
            let body = if method == "POST" { r#"{"seq": 1}"# } else { "" };
            let method = method.parse().expect("a method");
            assert_eq!(refused(&boards.send(method, &path_of_all, body).await), 403);
        }
        (method, path) => panic!("say here what {method} {path} does for an operator of one board"),
    }
}

#[tokio::test]
async fn an_operator_of_a_board_approves_its_agents_alone() {
    let system = TestSystem::with().parameter("Approval", "operator").start().await;
    let bearer = format!("Bearer {}", token(&system, json!({ "board_id": BOARD })).await);
    for (board_id, status) in [(json!(BOARD), 200), (json!(OTHER_BOARD), 403), (Value::Null, 403)] {
        let key = text(&system.register(&json!({ "name": "a", "boardId": board_id })).await.data(), "apiKey");
        let headers = [("x-agent-token", key.as_str()), ("authorization", bearer.as_str())];
        let reply = system.send(Method::POST, "/api/agents/verify", &headers, "").await;
        assert_eq!(reply.status, status, "{board_id}: {}", reply.text);
    }
    let headers = [("x-agent-token", "0".repeat(48)), ("authorization", bearer.clone())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = system.send(Method::POST, "/api/agents/verify", &headers, "").await;
    assert_eq!(reply.refusal(), (401, "INVALID_KEY".to_owned()), "a stranger learns nothing of boards");
}

#[tokio::test]
async fn a_token_says_what_it_may_do() {
    let system = TestSystem::start().await;
    let own = async |fields: Value| {
        let bearer = Client::bearer(&system, &token(&system, fields).await);
        bearer.get("/api/v1/tokens/self").await.json()
    };
    let whole = own(json!({ "label": "ops" })).await;
    assert_eq!(
        (&whole["role"], &whole["label"], &whole["kind"]),
        (&json!("operator"), &json!("ops"), &json!("operator"))
    );
    assert_eq!(own(json!({ "role": "viewer" })).await["role"], "viewer");
    let enrollment = system.enrollment_token(json!({})).await;
    assert_eq!(refused(&Client::bearer(&system, &enrollment).get("/api/v1/tokens/self").await), 403);
}

#[tokio::test]
async fn a_role_is_one_of_two_words_and_operators_alone_have_one() {
    let system = TestSystem::start().await;
    let operator = Client::operator(&system).await;
    for (request, loc) in [
        (json!({ "kind": "operator", "role": "admin" }), "body.role"),
        (json!({ "kind": "operator", "role": 7 }), "body.role"),
        (json!({ "kind": "enrollment", "all_boards": true, "role": "viewer" }), "body.role"),
        (json!({ "kind": "operator", "board_id": BOARD, "all_boards": true }), "body.board_id"),
    ] {
        assert_eq!(invalid(&operator.post(TOKENS, &request).await), loc, "{request}");
    }
    let minted = operator.post(TOKENS, &json!({ "kind": "enrollment", "all_boards": true })).await.json();
    assert_eq!(minted["role"], Value::Null);
    let minted = operator.post(TOKENS, &json!({ "kind": "operator" })).await.json();
    assert_eq!(minted["role"], "operator");
}
