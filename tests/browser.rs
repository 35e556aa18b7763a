//! The page in a browser: Chromium, driven by `chromedriver`, over the real system. Behind the feature `browser`, so that
//! `cargo test` needs no browser and never passes what it did not run:
//!
//! ```sh
//! apt-get install chromium chromium-driver
//! cargo test --features browser --test browser
//! ```

use std::process::Stdio;
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Method;
use reqwest::header::HeaderName;
use serde_json::{Value, json};
use shared::config::env;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use support::document::DOCUMENT;
use support::{Reply, TestAgent, TestSystem};

#[allow(dead_code, reason = "what the other tests need of it")]
mod support;

/// How long a test waits for the browser, before it fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Runs before the page's own scripts, and notes whatever the page's policy had to forbid, and what it asked and was told.
const WATCH: &str = "window.forbidden = []; window.failures = [];
    addEventListener('securitypolicyviolation', (event) => forbidden.push(event.violatedDirective + ' ' + event.blockedURI));
    addEventListener('error', (event) => failures.push(String(event.message)));
    addEventListener('unhandledrejection', (event) => failures.push(String(event.reason)));
    window.exchanges = []; const plainly = fetch;
    window.fetch = async (target, { method, body, ...rest }) => {
        const answer = await plainly(target, { method, body, ...rest });
        const { status, headers } = answer, text = await answer.clone().text();
        exchanges.push({ method, url: new URL(target, location).href, sent: body ?? '', status, headers: [...headers], text });
        return answer;
    };";

/// A browser of a test's own, with nothing in it.
struct Browser {
    client: Client,
    session: String,
    http: reqwest::Client,
    _driver: Child,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver: apt-get install chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = loop {
            let line = lines.next_line().await.expect("a line").expect("the driver's port");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let capabilities = json!({ "goog:chromeOptions": { "args": FLAGS } });
        let driver_url = format!("http://127.0.0.1:{port}");
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().expect("an object").clone())
            .connect(&driver_url)
            .await
            .expect("a session");
        let id = client.session_id().await.expect("a session").expect("its id");
        let session = format!("{driver_url}/session/{id}");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let browser = Self { client, session, http, _driver: driver };
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH })).await;
        browser.screen(1280, 900, false).await;
        browser
    }

    /// A command of Chromium's own.
    async fn devtools(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters }).to_string();
        let answer = self.http.post(format!("{}/goog/cdp/execute", self.session)).body(body).send().await;
        assert!(answer.expect("an answer").status().is_success(), "{command}");
    }

    /// The size of the window, and the scheme of colours that its user prefers.
    async fn screen(&self, width: u32, height: u32, dark: bool) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// What a script returns.
    async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{error}: {script}"))
    }

    /// Waits until an expression is true.
    async fn until(&self, expression: &str) {
        let look = async {
            while self.run(&format!("return Boolean({expression})")).await != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, look).await;
        let shown = self.run("return document.body.innerText").await;
        assert!(waited.is_ok(), "never {expression}: {shown}");
    }

    /// Signs in by the link that `cargo run` and a minted token have, and waits for the fleet.
    async fn sign_in(&self, system: &TestSystem, token: &str) {
        self.client.goto(&format!("{}/#token={token}", system.url())).await.expect("the page");
        self.until("document.querySelector('.pulse')?.textContent === 'up to date'").await;
    }

    async fn open(&self, route: &str) {
        self.client.execute("location.hash = arguments[0]", vec![json!(route)]).await.expect("a route");
        self.until("document.querySelector('main').dataset.read === location.hash").await;
    }

    /// Reads the open view again, as after a quarter of a minute.
    async fn read_again(&self) {
        self.run("document.querySelector('main').dataset.read = ''; document.dispatchEvent(new Event('visibilitychange'))")
            .await;
        self.until("document.querySelector('main').dataset.read").await;
    }

    /// Reads the open view again and again, until an expression is true.
    async fn read_until(&self, expression: &str) {
        let look = async {
            while self.run(&format!("return Boolean({expression})")).await != true {
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.read_again().await;
            }
        };
        let waited = tokio::time::timeout(6 * PATIENCE, look).await;
        let shown = self.run("return document.body.innerText").await;
        assert!(waited.is_ok(), "never {expression}: {shown}");
    }

    /// The texts of all elements that a selector finds.
    async fn texts(&self, selector: &str) -> Vec<String> {
        let found =
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent.trim())";
        let texts = self.client.execute(found, vec![json!(selector)]).await.expect("texts");
        serde_json::from_value(texts).expect("strings")
    }

    /// Presses keys where the focus is.
    async fn press(&self, keys: impl AsRef<str>) {
        let focused = self.client.active_element().await.expect("a focus");
        focused.send_keys(keys.as_ref()).await.expect("keys");
    }

    /// Goes on with the tabulator until the element with this text, or of this name, has the focus.
    async fn tab_to(&self, what: &str) {
        let focused = "const at = document.activeElement; return at.name || at.textContent.trim()";
        for _ in 0..60 {
            self.press(char::from(Key::Tab).to_string()).await;
            if self.run(focused).await == what {
                return;
            }
        }
        panic!("the tabulator never comes to {what}");
    }

    /// Clicks what is found there first.
    async fn click(&self, locator: Locator<'_>) {
        let found = self.client.find(locator).await.expect("something to click on");
        found.click().await.expect("a click");
    }

    /// Clicks a button of the open agent, chooses in its dialog what is to follow, if anything, and confirms it.
    async fn asks(&self, word: &str, then: &str) {
        self.click(Locator::XPath(&format!("//main//button[text()='{word}']"))).await;
        if !then.is_empty() {
            self.press(then).await;
        }
        self.click(Locator::XPath(&format!("//dialog//button[text()='{word}']"))).await;
        self.until("!document.querySelector('dialog')").await;
    }

    async fn enter(&self) {
        self.press(char::from(Key::Enter).to_string()).await;
    }

    /// Nothing had to be forbidden, nothing failed, nothing was asked of another place, and docs/openapi.yaml knows every
    /// request and every answer.
    async fn is_clean(&self, system: &TestSystem) {
        assert_eq!(self.run("return window.forbidden").await, json!([]));
        assert_eq!(self.run("return window.failures").await, json!([]));
        let asked =
            self.run("return performance.getEntriesByType('resource').map((entry) => entry.name)").await;
        for place in asked.as_array().expect("a list") {
            assert!(place.as_str().expect("a URL").starts_with(system.url()), "{place}");
        }
        let exchanges = self.run("return window.exchanges").await;
        let exchanges = exchanges.as_array().expect("a list");
        assert!(!exchanges.is_empty());
        for exchange in exchanges {
            is_documented(system, exchange);
        }
    }

    async fn end(self) {
        self.client.close().await.expect("the end of the session");
    }
}

/// An exchange of the page's with the API is one that docs/openapi.yaml knows.
#[track_caller]
fn is_documented(system: &TestSystem, exchange: &Value) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let method: Method = text(&exchange["method"]).parse().expect("a method");
    let url = text(&exchange["url"]);
    let target = url.strip_prefix(system.url()).expect("this system's");
    let headers = exchange["headers"].as_array().expect("headers").iter().map(|header| {
        let name: HeaderName = text(&header[0]).parse().expect("a header's name");
        (name, text(&header[1]).parse().expect("a header's value"))
    });
    let status = exchange["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
    let reply = Reply { status, headers: headers.collect(), text: text(&exchange["text"]) };
    let judged = DOCUMENT.judge_answer(&method, target, &reply);
    let sent = text(&exchange["sent"]);
    let asked = if status < 300 { DOCUMENT.judge_request(&method, target, sent.as_bytes()) } else { Ok(()) };
    assert_eq!((asked, judged), (Ok(()), Ok(())), "{method} {target} {sent}: {status} {}", reply.text);
}

const SECOND: Duration = Duration::from_secs(1);

async fn operator_sends(system: &TestSystem, token: &str, method: Method, path: &str, body: Value) -> Value {
    let bearer = format!("Bearer {token}");
    let reply = system.send(method, path, &[("authorization", &bearer)], body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// An active agent with this heartbeat, which was heard once if `status` says something.
async fn agent(
    system: &TestSystem,
    token: &str,
    name: &str,
    interval: u64,
    status: Option<&str>,
) -> TestAgent {
    let body = json!({ "name": name, "heartbeat_config": { "interval_seconds": interval } });
    let made = operator_sends(system, token, Method::POST, "/api/v1/agents", body).await;
    let text = |field: &str| made[field].as_str().expect("a string").to_owned();
    let agent = TestAgent { id: text("id"), key: text("agent_token") };
    if let Some(status) = status {
        system.heartbeat(&agent, status).await.data();
    }
    agent
}

/// A fleet with an agent in each state, and an operator's token.
async fn fleet(system: &TestSystem) -> String {
    let token = system.operator_token().await;
    for (name, interval, status) in [
        ("steady-1", 3600, Some("healthy")),
        ("steady-2", 3600, Some("healthy")),
        ("broken", 3600, Some("error")),
        ("tired", 3600, Some("degraded")),
        ("dead", 60, Some("healthy")),
        ("never", 60, None),
    ] {
        let agent = agent(system, &token, name, interval, status).await;
        if name == "dead" {
            // Its view has everything that a view can have.
            budget(system, &token, &agent, json!({ "usd_per_day": 5 })).await;
            for boot_id in ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"] {
                report(system, &agent, json!({ "boot_id": boot_id, "usage": { "cost_usd": 2.1 } })).await;
            }
        }
    }
    let gone = agent(system, &token, "gone", 3600, Some("healthy")).await;
    system.heartbeat(&gone, "offline").await.data();
    let out = agent(system, &token, "out", 3600, Some("healthy")).await;
    let path = format!("/api/v1/agents/{}/revoke", out.id);
    operator_sends(system, &token, Method::POST, &path, json!({ "reason": "its key was in a log" })).await;
    system.advance(330 * SECOND);
    system.sweep().await;
    let late = agent(system, &token, "late", 60, Some("healthy")).await;
    assert_eq!(late.key.len(), 48);
    agent(system, &token, "fresh", 3600, None).await;
    system.registered("newcomer").await;
    system.advance(80 * SECOND);
    token
}

#[tokio::test]
async fn the_fleet_is_shown_worst_first() {
    let system = TestSystem::start().await;
    let token = fleet(&system).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    let words = browser.texts("tbody td[data-label=State]").await;
    let expected = [
        "Offline",
        "Never came",
        "Error",
        "Late",
        "Degraded",
        "To approve",
        "Not seen yet",
        "Left",
        "Live",
        "Live",
        "Revoked",
    ];
    assert_eq!(words, expected);
    let names = browser.texts("tbody td.name").await;
    let expected = [
        "dead", "never", "broken", "late", "tired", "newcomer", "fresh", "gone", "steady-1", "steady-2",
        "out",
    ];
    assert_eq!(names, expected);
    assert_eq!(browser.texts("h1").await, ["2 of 11 agents are offline"]);
    // Each tile is a filter, and says how many it shows.
    for (tile, count) in
        [("offline", 2), ("unwell", 2), ("late", 1), ("waiting", 2), ("live", 2), ("left", 1), ("revoked", 1)]
    {
        let button = browser.client.find(Locator::Css(&format!("button.is-{tile}"))).await.expect("a tile");
        assert_eq!(
            button.find(Locator::Css("b")).await.expect("a number").text().await.expect("text"),
            count.to_string()
        );
        button.click().await.expect("a click");
        assert_eq!(browser.texts("tbody tr").await.len(), count, "{tile}");
        button.click().await.expect("a click");
    }
    let search = browser.client.find(Locator::Id("name")).await.expect("the search");
    search.send_keys("steady").await.expect("keys");
    browser.until("document.querySelectorAll('tbody tr').length === 2").await;
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn an_agent_that_dies_turns_offline_within_one_refresh() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    agent(&system, &token, "mortal", 60, Some("healthy")).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    assert_eq!(browser.texts("tbody .pill").await, ["Live"]);
    // Where somebody is, he stays: the row is changed, and not made anew.
    browser
        .run("document.querySelector('tbody a').focus(); document.querySelector('tbody tr').mine = true")
        .await;
    system.advance(131 * SECOND);
    system.sweep().await;
    browser.read_again().await;
    assert_eq!(browser.texts("tbody .pill").await, ["Offline"]);
    assert_eq!(browser.texts("h1").await, ["1 of 1 agent is offline"]);
    assert_eq!(browser.texts("tbody time").await, ["2 min ago"]);
    assert_eq!(browser.run("return document.querySelector('tbody tr').mine").await, true);
    assert_eq!(browser.run("return document.activeElement.textContent").await, "mortal");
    assert_eq!(browser.client.title().await.expect("a title"), "(1) Rollcall");
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn a_name_with_markup_is_text_in_every_view() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let name = r#"<img src=x onerror="window.hit=1"><script>window.hit=1</script>"#;
    let agent = agent(&system, &token, name, 60, Some("healthy")).await;
    system
        .post_events(
            &agent,
            &json!({ "event": "<b>e</b>", "payload": { "x": "<img src=x onerror='window.hit=1'>" } }),
        )
        .await
        .data();
    operator_sends(
        &system,
        &token,
        Method::POST,
        "/api/v1/tokens",
        json!({ "kind": "operator", "label": name }),
    )
    .await;
    let silence = json!({ "all": true, "for_seconds": 60, "reason": name });
    operator_sends(&system, &token, Method::POST, "/api/v1/silences", silence).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    assert_eq!(browser.texts("tbody td.name").await, [name]);
    for route in [
        format!("#/agents/{}", agent.id),
        "#/tokens".to_owned(),
        "#/silences".to_owned(),
        "#/alerts".to_owned(),
    ] {
        browser.open(&route).await;
        assert_eq!(
            browser.run("return document.querySelectorAll('main img, main script, main b b').length").await,
            0,
            "{route}"
        );
        let shown = browser.run("return document.querySelector('main').innerText").await;
        assert!(
            route == "#/alerts" || shown.as_str().expect("text").contains("<img src=x"),
            "{route}: {shown}"
        );
    }
    assert_eq!(browser.run("return window.hit ?? null").await, Value::Null);
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn inner_html_throws() {
    let system = TestSystem::start().await;
    let browser = Browser::start().await;
    browser.client.goto(&format!("{}/", system.url())).await.expect("the page");
    browser.until("document.querySelector('form')").await;
    for attempt in [
        "document.body.innerHTML = '<b>x</b>'",
        "document.write('x')",
        "new DOMParser().parseFromString('x', 'text/html')",
    ] {
        let script = format!("try {{ {attempt}; return 'done' }} catch (error) {{ return error.name }}");
        assert_eq!(browser.run(&script).await, "TypeError", "{attempt}");
    }
    browser.end().await;
}

#[tokio::test]
async fn the_token_is_in_no_url_and_no_storage_but_the_tabs() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    let address = async || browser.client.current_url().await.expect("an address").to_string();
    assert_eq!(address().await, format!("{}/", system.url()), "it is gone at once");
    let places = "return JSON.stringify([location.href, document.referrer, document.cookie, {...localStorage}, window.name,
        performance.getEntries().map((entry) => entry.name).filter((name) => name !== location.href), history.state])";
    for route in ["#/tokens", "#/"] {
        browser.open(route).await;
        let found = browser.run(places).await;
        // The navigation's own entry is the address that was typed.
        let found = found.as_str().expect("text").replace(&format!("{}/#token={token}", system.url()), "");
        assert!(!found.contains(&token[4..]), "{found}");
    }
    // Whoever goes back does not come to it either.
    for _ in 0..2 {
        browser.client.back().await.expect("the page before");
        assert!(!address().await.contains(&token[4..]));
    }
    let kept = browser.run("return Object.values(sessionStorage)").await;
    assert_eq!(kept, json!([token]));
    let shown = browser.run("return document.documentElement.outerHTML").await;
    assert!(!shown.as_str().expect("text").contains(&token[4..]), "it is not shown either");
    browser.click(Locator::XPath("//button[text()='Sign out']")).await;
    browser.until("document.querySelector('form')").await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
    assert!(
        !browser.run("return document.body.innerText").await.as_str().expect("text").contains("agent is")
    );
    browser.end().await;
}

#[tokio::test]
async fn a_token_that_is_refused_leads_to_the_door_and_says_why() {
    let system = TestSystem::start().await;
    let browser = Browser::start().await;
    let unknown = format!("rco_{}", "0".repeat(48));
    browser.client.goto(&format!("{}/#token={unknown}", system.url())).await.expect("the page");
    browser
        .until("document.querySelector('form .problem')?.textContent.includes('unknown or expired')")
        .await;
    browser.press("nonsense").await;
    browser.enter().await;
    browser.until("document.querySelector('form .problem').textContent.includes('48 hexadecimal')").await;
    let token = system.operator_token().await;
    browser.run("document.querySelector('#token').value = ''").await;
    browser.press(&token).await;
    browser.enter().await;
    browser.until("document.querySelector('h1')?.textContent === 'No agents yet'").await;
    // It ends while the page is open.
    let own = operator_sends(&system, &token, Method::GET, "/api/v1/tokens/self", json!({})).await;
    let path = format!("/api/v1/tokens/{}", own["id"].as_str().expect("an id"));
    operator_sends(&system, &token, Method::DELETE, &path, json!({})).await;
    browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    browser.until("document.querySelector('form .problem')?.textContent.includes('signed out')").await;
    browser.end().await;
}

#[tokio::test]
async fn approve_revoke_rotate_by_keyboard_alone() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let agent = system.registered("newcomer").await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    browser.tab_to("newcomer").await;
    browser.enter().await;
    browser.until("document.querySelector('h1')?.textContent === 'newcomer'").await;

    browser.tab_to("Approve").await;
    browser.enter().await;
    browser.until("document.activeElement.name === 'reason'").await;
    browser.press("looks fine").await;
    browser.enter().await;
    browser.until("document.querySelector('.title .pill')?.textContent === 'Not seen yet'").await;
    assert!(browser.texts(".event").await.iter().any(|event| event.contains("Approved: “looks fine”")));

    browser.tab_to("Rotate key").await;
    browser.enter().await;
    browser.until("document.activeElement.name === 'overlap'").await;
    browser.tab_to("Rotate key").await;
    browser.enter().await;
    browser.until("document.querySelector('.secret')").await;
    let key = browser.run("return document.querySelector('.secret').value").await;
    let key = key.as_str().expect("a key").to_owned();
    let renewed = TestAgent { id: agent.id.clone(), key };
    assert_ne!(renewed.key, agent.key);
    system.heartbeat(&renewed, "healthy").await.data();
    browser.press(char::from(Key::Escape).to_string()).await;
    browser.until("!document.querySelector('dialog')").await;

    // Who opens a dialog and leaves it has changed nothing.
    browser.tab_to("Revoke").await;
    browser.enter().await;
    browser.until("document.querySelector('dialog')").await;
    browser.press(char::from(Key::Escape).to_string()).await;
    browser.until("!document.querySelector('dialog')").await;
    assert_eq!(browser.run("return document.activeElement.textContent").await, "Revoke", "the focus is back");
    browser.enter().await;
    browser.until("document.activeElement.name === 'reason'").await;
    browser.enter().await;
    browser.until("document.querySelector('.title .pill')?.textContent === 'Revoked'").await;
    assert_eq!(system.heartbeat(&renewed, "healthy").await.status, 401);
    browser.is_clean(&system).await;
    browser.end().await;
}

async fn budget(system: &TestSystem, token: &str, agent: &TestAgent, budget: Value) {
    let path = format!("/api/v1/agents/{}", agent.id);
    operator_sends(system, token, Method::PATCH, &path, json!({ "budget": budget })).await;
}

/// A heartbeat with a report, and its answer.
async fn report(system: &TestSystem, agent: &TestAgent, report: Value) -> Value {
    let body = json!({ "status": "healthy", "report": report });
    operator_sends(system, &agent.key, Method::POST, "/api/v1/agent/heartbeat", body).await
}

#[tokio::test]
async fn a_pause_is_asked_for_on_a_phone_and_its_acknowledgement_is_seen() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let agent = agent(&system, &token, "looper", 60, Some("healthy")).await;
    let browser = Browser::start().await;
    browser.screen(360, 780, true).await;
    browser.sign_in(&system, &token).await;
    browser.open(&format!("#/agents/{}", agent.id)).await;
    browser.tab_to("Pause").await;
    browser.enter().await;
    browser.until("document.activeElement.name === 'reason'").await;
    browser.press("looping on <b>812</b>").await;
    browser.enter().await;
    let says = |text: &str| format!("document.querySelector('.why').textContent.includes('{text}')");
    browser.until(&says("Asked to pause, since")).await;
    browser.until(&says(": not acknowledged")).await;

    let directive = report(&system, &agent, json!({})).await["directive"].clone();
    assert_eq!(directive["action"], "pause");
    report(&system, &agent, json!({ "ack_directive": directive["version"] })).await;
    browser.read_again().await;
    browser.until(&says(": acknowledged")).await;
    let told = browser.texts(".event").await.join(" | ");
    assert!(told.contains("Asked to pause: “looping on <b>812</b>”"), "{told}");
    assert!(told.contains("Acknowledged that it should pause"), "{told}");

    browser.tab_to("Stop").await;
    browser.enter().await;
    browser.until("document.activeElement.name === 'then'").await;
    browser.press("shut").await;
    browser.press(char::from(Key::Tab).to_string()).await;
    browser.enter().await;
    browser.until(&says("Asked to stop")).await;
    browser.until(&says("shut out if it goes on")).await;
    assert_eq!(report(&system, &agent, json!({})).await["directive"]["action"], "stop");
    browser.open("#/").await;
    assert_eq!(browser.texts("td[data-label=Directive]").await, ["stop (asked)"]);
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn what_an_agent_used_today_is_a_bar_of_its_budget() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let agent = agent(&system, &token, "spender", 3600, Some("healthy")).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    browser.open(&format!("#/agents/{}", agent.id)).await;
    let bars =
        "return [...document.querySelectorAll('svg[role=img]')].map((bar) => bar.getAttribute('aria-label'))";
    let bars = async || {
        let bars = browser.run(bars).await;
        let bars: Vec<String> = serde_json::from_value(bars).expect("strings");
        bars.into_iter().filter(|bar| bar.starts_with("Used today")).collect::<Vec<_>>()
    };
    let facts = async || browser.texts(".facts div").await.join(" | ");
    assert_eq!(bars().await, [""; 0]);
    assert!(!facts().await.contains("Used"), "nothing was used");

    let usage = |tokens: u64, cost_usd: f64| json!({ "usage": { "tokens": tokens, "cost_usd": cost_usd } });
    report(&system, &agent, usage(1_234_567, 0.24)).await;
    browser.read_again().await;
    assert_eq!(bars().await, [""; 0], "of nothing there is no bar");
    assert!(facts().await.contains("Used today$0.24, 1,234,567 tokens"), "{}", facts().await);

    for (amount, label, width, state) in [
        (
            json!({ "usd_per_day": 0.5 }),
            "Used today: 48 %, $0.24 of $0.50, 1,234,567 tokens",
            480,
            "is-fresh",
        ),
        (
            json!({ "usd_per_day": 0.3 }),
            "Used today: 80 %, $0.24 of $0.30, 1,234,567 tokens: nearly used up",
            800,
            "is-late",
        ),
        (
            json!({ "tokens_per_day": 1_000_000 }),
            "Used today: 123 %, 1,234,567 tokens of 1,000,000, $0.24: over budget",
            1000,
            "is-offline",
        ),
    ] {
        budget(&system, &token, &agent, amount).await;
        browser.read_again().await;
        assert_eq!(bars().await, [label]);
        let caption = browser.texts("figcaption").await[0].clone();
        let words = label.replacen(": ", "", 1).replacen(", ", "", 1);
        assert_eq!(caption, words, "who sees it reads what the others hear");
        let drawn = browser.run("return document.querySelector('.used').outerHTML").await;
        let drawn = drawn.as_str().expect("text");
        assert!(drawn.contains(&format!("width=\"{width}\"")) && drawn.contains(state), "{drawn}");
        for dark in [false, true] {
            browser.screen(360, 780, dark).await;
            let contrast = browser.run(CONTRAST_OF_THE_BAR).await.as_f64().expect("a number");
            assert!(contrast >= 4.5, "{state}, dark: {dark}: {contrast}");
        }
        let why = browser.texts(".why").await.concat();
        assert_eq!(why.contains("over its budget, and told to pause"), state == "is-offline", "{why}");
    }
    let told = browser.texts(".event").await.join(" | ");
    assert!(told.contains("Changed budget: nothing → 0.5 usd per day"), "{told}");
    // What an operator says goes before it.
    let path = format!("/api/v1/agents/{}/directive", agent.id);
    operator_sends(&system, &token, Method::POST, &path, json!({ "action": "drain" })).await;
    browser.read_again().await;
    let why = browser.texts(".why").await.concat();
    assert!(why.contains("Asked to finish and leave") && !why.contains("over its budget"), "{why}");
    browser.is_clean(&system).await;
    browser.end().await;
}

/// How much the bar of what was used stands out from its ground, by WCAG's formula.
const CONTRAST_OF_THE_BAR: &str = "
    const light = (color) => color.match(/[0-9.]+/g).slice(0, 3)
        .map((part) => part / 255).map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], .05);
    const bar = document.querySelector('.used');
    const [one, other] = [light(getComputedStyle(bar).fill), light(getComputedStyle(bar.parentNode).backgroundColor)];
    return Math.max(one, other) / Math.min(one, other)";

#[tokio::test]
async fn restarts_and_two_processes_with_one_key_are_told_in_words() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let agent = agent(&system, &token, "twice", 60, None).await;
    let [one, other] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"];
    report(&system, &agent, json!({ "boot_id": one })).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    browser.open(&format!("#/agents/{}", agent.id)).await;
    let has = async |what: &str, words: &str| {
        let texts = browser.texts(what).await;
        assert!(texts.iter().any(|text| text.contains(words)), "{words}: {texts:#?}");
    };
    has(".facts div", &format!("Boot id{one}")).await;
    system.advance(30 * SECOND);
    report(&system, &agent, json!({ "boot_id": other })).await;
    // It is seen with the next refresh, and not only with the minute's.
    browser.read_again().await;
    has(".facts div", &format!("Boot id{other}")).await;
    has(".event", &format!("Restarted: process {other} after {one}")).await;
    for boot_id in [one, other].into_iter().cycle().take(30) {
        system.advance(30 * SECOND);
        report(&system, &agent, json!({ "boot_id": boot_id })).await;
    }
    browser.open("#/").await;
    browser.open(&format!("#/agents/{}", agent.id)).await;
    has(".event.is-error", "Two processes with one key: ").await;
    has(".event.is-error", one).await;
    has(".event.is-error", other).await;
    browser.is_clean(&system).await;
    browser.end().await;
}

/// A program in Python beside the page; what it prints.
struct Program {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Program {
    fn start(script: &str, system: &TestSystem, agent: &TestAgent) -> Self {
        let client = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/src");
        let mut process = Command::new("python3")
            .args(["-c", script, client, system.url(), &agent.key])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { lines, _process: process }
    }

    /// Waits for a line; the lines before it.
    async fn says(&mut self, expected: &str) -> Vec<String> {
        let mut before = Vec::new();
        let wait = async {
            loop {
                let line = self.lines.next_line().await.expect("a line");
                let line = line.unwrap_or_else(|| panic!("it ended before {expected}: {before:?}"));
                if line == expected {
                    break;
                }
                before.push(line);
            }
        };
        let waited = tokio::time::timeout(6 * PATIENCE, wait).await;
        assert!(waited.is_ok(), "never {expected}: {before:?}");
        before
    }
}

/// Works on in turns, between which it looks whether it may.
const WORKER: &str = r#"
import logging, sys, time
sys.path.insert(0, sys.argv[1])
from rollcall_heartbeat import Heartbeat, Stop

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
try:
    with Heartbeat(sys.argv[2], sys.argv[3]) as heartbeat:
        while True:
            heartbeat.check()
            print("works", flush=True)
            time.sleep(0.05)
except Stop:
    print("stops", flush=True)
"#;

/// Beats on, whatever it is told.
const DEAF: &str = r#"
import sys, time, urllib.error, urllib.request

code = 200
while code == 200:
    request = urllib.request.Request(sys.argv[2] + "/api/v1/agent/heartbeat", b"", {"X-Agent-Token": sys.argv[3]})
    try:
        code = urllib.request.urlopen(request).status
    except urllib.error.HTTPError as refusal:
        code = refusal.code
    print(code, flush=True)
    time.sleep(1)
"#;

/// From a phone, while the machine's own clock goes on and the sweep runs by its schedule.
#[tokio::test]
async fn from_a_phone_a_client_in_python_is_paused_set_going_and_stopped() {
    let system = TestSystem::with().running(SECOND).start().await;
    let token = system.operator_token().await;
    let worker = agent(&system, &token, "worker", 2, None).await;
    let mut program = Program::start(WORKER, &system, &worker);
    program.says("heartbeats are accepted").await;
    let browser = Browser::start().await;
    browser.screen(360, 780, false).await;
    browser.sign_in(&system, &token).await;
    browser.open(&format!("#/agents/{}", worker.id)).await;
    let says = |text: &str| format!("document.querySelector('.why').textContent.includes('{text}')");

    browser.asks("Pause", "").await;
    program.says("directive: pause").await;
    browser.read_until(&says(": acknowledged")).await;
    browser.asks("Resume", "").await;
    // Between the two heartbeats whose answers differ it ends its turn, and begins no other.
    let turns = program.says("directive: run").await;
    assert!(turns.len() <= 1, "it worked through its pause: {turns:?}");
    program.says("works").await;
    let events = browser.texts(".event").await.join(" | ");
    assert!(
        events.contains("Asked to pause") && events.contains("Acknowledged that it should pause"),
        "{events}"
    );

    browser.asks("Stop", "").await;
    program.says("stops").await;
    browser.read_until("document.querySelector('.title .pill').textContent === 'Left'").await;
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn from_a_phone_a_client_that_does_not_listen_is_stopped_and_shut_out() {
    let system = TestSystem::with().running(SECOND).start().await;
    let token = system.operator_token().await;
    let deaf = agent(&system, &token, "deaf", 1, None).await;
    let mut program = Program::start(DEAF, &system, &deaf);
    program.says("200").await;
    let browser = Browser::start().await;
    browser.screen(360, 780, false).await;
    browser.sign_in(&system, &token).await;
    browser.open(&format!("#/agents/{}", deaf.id)).await;
    browser.asks("Stop", "shut").await;
    let heard = program.says("403").await;
    assert!(heard.iter().all(|code| code == "200"), "{heard:?}");
    browser.read_until("document.querySelector('.title .pill').textContent === 'Revoked'").await;
    let events = browser.texts(".event").await.join(" | ");
    assert!(events.contains("Shut out") && !events.contains("Acknowledged"), "{events}");
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn who_gets_nowhere_and_who_sleeps_on_purpose_is_shown() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let [stuck, asleep] = ["stuck", "asleep"].map(|name| agent(&system, &token, name, 60, None));
    let (stuck, asleep) = (stuck.await, asleep.await);
    report(&system, &stuck, json!({ "progress_age_seconds": 1000 })).await;
    report(&system, &asleep, json!({ "next_beat_in_seconds": 14400 })).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    assert_eq!(browser.texts("tbody .pill").await, ["Stalled", "Asleep"]);
    for (agent, words) in [(&stuck, "work should have moved"), (&asleep, "next heartbeat is due")] {
        browser.open(&format!("#/agents/{}", agent.id)).await;
        let why = browser.texts(".why").await.join(" ");
        assert!(why.contains(words), "{why}");
    }
    // Who was told to pause owes no progress.
    let path = format!("/api/v1/agents/{}/directive", stuck.id);
    operator_sends(&system, &token, Method::POST, &path, json!({ "action": "pause" })).await;
    browser.open(&format!("#/agents/{}", stuck.id)).await;
    assert_eq!(browser.texts(".title .pill").await, ["Live"]);
    // And has 15 minutes from its end on.
    operator_sends(&system, &token, Method::POST, &path, json!({ "action": "run" })).await;
    browser.open(&format!("#/agents/{}", stuck.id)).await;
    assert_eq!(browser.texts(".title .pill").await, ["Live"]);
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn a_viewers_page_offers_nothing_that_changes_anything() {
    let system = TestSystem::start().await;
    fleet(&system).await;
    let minted = system.mint(&json!({ "kind": "operator", "role": "viewer" })).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, minted["token"].as_str().expect("a token")).await;
    let buttons = "main button:not(.tile), main button:not(.tile) ~ button";
    assert_eq!(browser.texts(".role").await, ["read only"]);
    let id = browser.run("return document.querySelector('tbody a').hash").await;
    for route in ["#/", id.as_str().expect("a route"), "#/tokens", "#/silences", "#/alerts"] {
        browser.open(route).await;
        let offered: Vec<String> = browser.texts(buttons).await;
        assert!(
            offered.iter().all(|word| ["Load more", "Earlier"].contains(&word.as_str())),
            "{route}: {offered:?}"
        );
    }
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn what_was_read_last_stays_greyed_with_its_age_while_the_api_is_away() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    agent(&system, &token, "here", 60, Some("healthy")).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    system.proxy.close().await;
    browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    browser.until("document.body.hasAttribute('data-stale')").await;
    assert_eq!(browser.texts("tbody td.name").await, ["here"]);
    let said = browser.texts(".stale").await.concat();
    assert!(said.contains("What you see is ") && said.contains("Trying again in"), "{said}");
    system.proxy.reopen();
    browser.click(Locator::XPath("//button[text()='Try now']")).await;
    browser.until("!document.body.hasAttribute('data-stale')").await;
    assert_eq!(browser.texts(".stale").await, [""]);
    browser.end().await;
}

#[tokio::test]
async fn a_refresh_that_finds_nothing_new_is_one_read() {
    let system = TestSystem::start().await;
    let token = fleet(&system).await;
    system.sweep().await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    browser.read_again().await;
    system.proxy.take();
    browser.read_again().await;
    let tally = system.proxy.take();
    assert_eq!(tally.operations(), ["GetItem", "GetItem"], "the token, and the summary");
    browser.end().await;
}

#[tokio::test]
async fn a_fleet_that_is_too_large_is_shown_by_who_is_absent_and_by_pages() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    agent(&system, &token, "dead", 60, Some("healthy")).await;
    system.advance(131 * SECOND);
    for batch in 0..35 {
        let made = (0..30).map(|number| {
            let (system, token) = (&system, &token);
            async move {
                agent(system, token, &format!("builder-{}", batch * 30 + number), 3600, Some("healthy")).await
            }
        });
        futures_util::future::join_all(made).await;
    }
    system.registered("newcomer").await;
    system.sweep().await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    assert_eq!(browser.texts("h1").await, ["1 of 1,052 agents is offline"]);
    assert_eq!(
        browser.texts("tbody td.name").await[0],
        "dead",
        "who is absent first, though it is the oldest"
    );
    let rows = async || browser.texts("tbody tr").await.len();
    assert_eq!(rows().await, 201);
    browser.click(Locator::XPath("//button[text()='Load more']")).await;
    browser.until("document.querySelectorAll('tbody tr').length === 401").await;
    browser.read_again().await;
    assert_eq!(rows().await, 401, "what was asked for stays");
    browser.click(Locator::Css("button.is-waiting")).await;
    browser.until("document.querySelector('tbody td.name')?.textContent === 'newcomer'").await;
    assert_eq!(rows().await, 1);
    browser.click(Locator::Css("button.is-waiting")).await;
    let search = browser.client.find(Locator::Id("name")).await.expect("the search");
    search.send_keys("builder-77").await.expect("keys");
    browser.until("document.querySelectorAll('tbody tr').length === 11").await;
    browser.is_clean(&system).await;
    browser.end().await;
}

#[tokio::test]
async fn a_hidden_page_asks_for_nothing() {
    let system = TestSystem::start().await;
    let token = system.operator_token().await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    browser.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true });
        document.dispatchEvent(new Event('visibilitychange')); window.before = performance.getEntriesByType('resource').length;
        window.real = setTimeout; window.timers = 0").await;
    // Nothing is planned either: the one timer of the refresh is gone.
    system.proxy.take();
    browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    assert_eq!(system.proxy.take().requests(), 0);
    browser
        .run(
            "delete document.hidden; document.querySelector('main').dataset.read = '';
        document.dispatchEvent(new Event('visibilitychange'))",
        )
        .await;
    browser.until("document.querySelector('main').dataset.read").await;
    assert!(system.proxy.take().requests() > 0);
    browser.end().await;
}

#[tokio::test]
async fn on_a_phone_and_in_the_dark_nothing_is_cut_off() {
    let system = TestSystem::start().await;
    let token = fleet(&system).await;
    let long =
        agent(&system, &token, &"a-very-long-name-without-a-break".repeat(3), 60, Some("healthy")).await;
    let browser = Browser::start().await;
    browser.sign_in(&system, &token).await;
    for (width, dark) in [(360, false), (360, true), (1280, true)] {
        browser.screen(width, 780, dark).await;
        for route in [
            "#/".to_owned(),
            format!("#/agents/{}", long.id),
            "#/tokens".to_owned(),
            "#/silences".to_owned(),
            "#/alerts".to_owned(),
        ] {
            browser.open(&route).await;
            let overflow =
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.run(overflow).await, 0, "{route} at {width}");
        }
        let paper = browser.run("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(paper == "rgb(250, 248, 244)", !dark, "{paper}");
    }
    browser.is_clean(&system).await;
    browser.end().await;
}

/// The accessibility checks of axe-core, whose file `ROLLCALL_AXE` names. Without it this test fails: what did not run has
/// not passed.
#[tokio::test]
async fn axe_finds_nothing() {
    let file = env("ROLLCALL_AXE").expect("ROLLCALL_AXE: the path of axe.min.js");
    let axe = std::fs::read_to_string(file).expect("axe-core");
    let system = TestSystem::start().await;
    let token = fleet(&system).await;
    let browser = Browser::start().await;
    browser.client.goto(&format!("{}/", system.url())).await.expect("the page");
    browser.until("document.querySelector('form')").await;
    let check = async |what: &str| {
        browser.run(&axe).await;
        let found = browser
            .client
            .execute_async(
                "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
                    done(violations.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => html + failureSummary)])))",
                Vec::new(),
            )
            .await
            .expect("axe");
        assert_eq!(found, json!([]), "{what}");
    };
    check("the door").await;
    browser.sign_in(&system, &token).await;
    let id = browser.run("return document.querySelector('tbody a').hash").await;
    for (width, dark) in [(1280, false), (1280, true), (360, false), (360, true)] {
        browser.screen(width, 900, dark).await;
        for route in ["#/", id.as_str().expect("a route"), "#/tokens", "#/silences", "#/alerts"] {
            browser.open(route).await;
            check(&format!("{route} at {width}, dark: {dark}")).await;
        }
        browser.open("#/tokens").await;
        browser.click(Locator::XPath("//button[text()='New token']")).await;
        check(&format!("a dialog at {width}, dark: {dark}")).await;
        browser.press(char::from(Key::Escape).to_string()).await;
    }
    browser.end().await;
}
