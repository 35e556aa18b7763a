//! A function's process: how it starts, what it logs, and what it survives.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::deployment::{
    Deployment, binaries, call, executable, fixture, log_records, post, request, with_header,
};
use crate::mission_control::client::Client;
use crate::support::dynamodb_proxy::{Fault, When};
use crate::support::receiver::Receiver;
use crate::support::runtime_api::LambdaProcess;
use crate::support::tls::TlsProxy;

#[tokio::test]
async fn a_broken_environment_ends_every_function_with_one_line_that_names_the_variable() {
    let deployment = Deployment::start().await;
    let broken =
        [("verify", "APPROVAL"), ("register", "REGISTRATION"), ("heartbeat", "RATE_LIMIT_PER_MINUTE")];
    for (binary, variable) in broken {
        refuses(&deployment, binary, variable, "maybe").await;
    }
    for binary in &binaries() {
        if let Some(variable) = deployment.environment(binary).keys().find(|name| name.ends_with("_TABLE")) {
            refuses(&deployment, binary, variable, "").await;
        }
    }
}

#[tokio::test]
async fn a_broken_url_of_the_database_is_one_line_without_it() {
    let deployment = Deployment::start().await;
    for url in ["", "127.0.0.1:8000", "http://somebody:password@localhost"] {
        let lambda = refuses(&deployment, "heartbeat", "AWS_ENDPOINT_URL_DYNAMODB", url).await;
        assert!(!lambda.logs().concat().contains("password"), "{:?}", lambda.logs());
    }
}

/// As in AWS's own SDKs: the service's variable, else the generic one, which is what emulators give a function.
#[tokio::test]
async fn the_generic_endpoint_variable_counts_where_the_services_own_is_not_given() {
    const OWN: &str = "AWS_ENDPOINT_URL_DYNAMODB";
    const GENERIC: &str = "AWS_ENDPOINT_URL";
    let deployment = Deployment::start().await;
    let nowhere = "http://127.0.0.1:9";
    let mut environment = deployment.environment("heartbeat");
    environment.insert(GENERIC.to_owned(), nowhere.to_owned());
    deployment.system.proxy.take();
    LambdaProcess::start(executable("heartbeat"), &environment).await.stop().await;
    assert_eq!(deployment.system.proxy.take().operations(), ["GetItem"], "the service's own comes first");

    let own = environment.remove(OWN).expect("the engine's");
    environment.insert(GENERIC.to_owned(), own);
    LambdaProcess::start(executable("heartbeat"), &environment).await.stop().await;
    assert_eq!(deployment.system.proxy.take().operations(), ["GetItem"]);

    environment.insert(GENERIC.to_owned(), "127.0.0.1:8000".to_owned());
    let lambda = LambdaProcess::start(executable("heartbeat"), &environment).await;
    refuses_to_start(&lambda, GENERIC).await;
}

#[tokio::test]
async fn no_variable_of_the_template_has_a_silent_default() {
    let deployment = Deployment::start().await;
    let whole = deployment.environment("heartbeat");
    for missing in whole.keys().filter(|name| *name != "AWS_ENDPOINT_URL_DYNAMODB") {
        let mut environment = whole.clone();
        environment.remove(missing);
        let lambda = LambdaProcess::start(executable("heartbeat"), &environment).await;
        refuses_to_start(&lambda, missing).await;
    }
}

/// The connection is made while Lambda gives the function a whole core. Not every function is allowed this read, and
/// none needs its answer.
#[tokio::test]
async fn a_starting_function_connects_to_the_database_before_it_asks_for_an_invocation() {
    let deployment = Deployment::start().await;
    for binary in &binaries() {
        deployment.system.proxy.take();
        let lambda = deployment.function(binary).await;
        let tally = deployment.system.proxy.take();
        if ["fallback", "page"].contains(&binary.as_str()) {
            assert_eq!(tally.requests(), 0, "it needs no database");
        } else {
            assert_eq!(tally.operations(), ["GetItem"], "{binary}");
            assert_eq!((tally.read_units(), tally.write_units()), (0.5, 0.0), "{binary}");
        }
        lambda.stop().await;
        assert_eq!(lambda.logs(), Vec::<String>::new(), "{binary}");
    }
}

#[tokio::test]
async fn a_function_starts_whether_its_database_answers_or_not() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("early").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    let denied = Fault::Error(400, "AccessDeniedException");
    // One that hangs is given up before the AWS SDK would send again.
    for (fault, attempts) in
        [(denied, 1..=1), (Fault::Throttled, 1..=3), (Fault::DropRequest, 1..=3), (Fault::Hang, 1..=1)]
    {
        let name = format!("{fault:?}");
        let away = deployment.system.proxy.inject(When::operation("GetItem"), fault);
        let heartbeat = deployment.function("heartbeat").await;
        assert!(attempts.contains(&away.hits()), "{name}: {} attempts", away.hits());
        away.clear();
        call(&heartbeat, said.clone()).await.data();
    }
    deployment.system.proxy.close().await;
    let heartbeat = deployment.function("heartbeat").await;
    assert_eq!(call(&heartbeat, said.clone()).await.status, 503);
    deployment.system.proxy.reopen();
    call(&heartbeat, said).await.data();
}

#[tokio::test]
async fn a_function_speaks_tls_with_whom_it_trusts_and_nobody_else() {
    let deployment = Deployment::start().await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let upstream = deployment.system.proxy.endpoint().trim_start_matches("http://").to_owned();
    let proxy = TlsProxy::start(upstream, folder).await;
    let agent = deployment.system.verified("private").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));

    let bundle = proxy.ca_bundle.to_string_lossy().into_owned();
    let others = concat!(env!("CARGO_MANIFEST_DIR"), "/shared/src/store/amazon-roots.pem");
    let tls = ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url.as_str());
    let trusting = deployment.function_with("heartbeat", &[tls, ("AWS_CA_BUNDLE", &bundle)]).await;
    assert!(proxy.take_last_client().is_some(), "it connects before its first invocation");
    call(&trusting, said.clone()).await.data();
    assert!(proxy.take_last_client().is_none(), "the first invocation has its connection");
    let by_the_machine = deployment.function_with("heartbeat", &[tls, ("SSL_CERT_FILE", &bundle)]).await;
    call(&by_the_machine, said.clone()).await.data();

    // A bundle stands in the place of the machine's roots, and not beside them.
    let other_bundle = [tls, ("AWS_CA_BUNDLE", others), ("SSL_CERT_FILE", &bundle)];
    let other_machine = [tls, ("SSL_CERT_FILE", others)];
    for trust in [other_bundle.as_slice(), &other_machine] {
        let wary = deployment.function_with("heartbeat", trust).await;
        assert_eq!(call(&wary, said.clone()).await.status, 503, "{trust:?}");
    }

    let no_certificate = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    for (name, text) in [("empty", "nothing"), ("wrong", no_certificate)] {
        std::fs::write(folder.join(name), text).expect("a folder to write to");
    }
    for bundle in ["/no/such/file".into(), folder.join("empty"), folder.join("wrong")] {
        refuses(&deployment, "heartbeat", "AWS_CA_BUNDLE", &bundle.to_string_lossy()).await;
    }
}

/// Starts a function with this value, which it must not take.
async fn refuses(deployment: &Deployment, binary: &str, variable: &str, value: &str) -> LambdaProcess {
    let mut environment = deployment.environment(binary);
    environment.insert(variable.to_owned(), value.to_owned());
    let lambda = LambdaProcess::start(executable(binary), &environment).await;
    refuses_to_start(&lambda, variable).await;
    lambda
}

async fn refuses_to_start(lambda: &LambdaProcess, variable: &str) {
    assert!(!lambda.is_alive(), "it runs without a good {variable}");
    assert!(!lambda.ended().await.success(), "{variable}");
    assert_eq!(lambda.polls(), 0, "{variable}: it asked for an invocation");
    let records = log_records(lambda);
    assert_eq!(records.len(), 1, "{variable}: {records:?}");
    assert_eq!(records[0]["level"], "ERROR");
    let error = records[0]["error"].as_str().expect("the error");
    assert!(error.starts_with(&format!("{variable}: ")), "{error}");
}

#[tokio::test]
async fn a_successful_heartbeat_leaves_no_log_line() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("quiet").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    for _ in 0..3 {
        call(&heartbeat, said.clone()).await.data();
    }
    heartbeat.stop().await;
    assert_eq!(heartbeat.logs(), Vec::<String>::new());
}

/// An event of the wrong kind is logged by the runtime, a job's failure too.
#[tokio::test]
async fn what_fails_in_an_invocation_is_logged_with_lambdas_request_id() {
    let deployment = Deployment::start().await;
    let sweep = deployment.function("sweep").await;
    let register = deployment.function("register").await;
    let unavailable = deployment.system.proxy.inject(When::always(), Fault::Throttled);
    for lambda in [&sweep, &register] {
        assert!(lambda.invoke(fixture("sqs-event.json")).await.is_error());
    }
    assert!(sweep.invoke(fixture("scheduler-sweep.json")).await.is_error());
    assert_eq!(call(&register, fixture("apigw-v2-register.json")).await.status, 503);
    unavailable.clear();
    for lambda in [sweep, register] {
        lambda.stop().await;
        let mut records = log_records(&lambda);
        records.retain(|record| record.get("Scanned").is_none());
        let ids: Vec<_> = records.iter().map(|record| record["span"]["requestId"].clone()).collect();
        let of_invocation = |count: u64| format!("00000000-0000-4000-8000-{count:012x}");
        assert_eq!(ids, [of_invocation(1), of_invocation(2)], "{records:?}");
    }
}

/// Both kinds of line that an endpoint writes by itself: for a broken deployment, and for an outage.
#[tokio::test]
async fn every_log_line_is_one_json_object_with_level_time_message_and_request() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("loud").await;
    let heartbeat = deployment.function_with("heartbeat", &[("EVENTS_TABLE", "no-such-table")]).await;
    let says =
        |status: &str| post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": status }));
    assert_eq!(call(&heartbeat, with_header(says("offline"), "x-request-id", "one")).await.status, 500);
    deployment.system.proxy.inject(When::writes().times(3), Fault::Throttled);
    assert_eq!(call(&heartbeat, with_header(says("healthy"), "x-request-id", "two")).await.status, 503);
    heartbeat.stop().await;
    let records = log_records(&heartbeat);
    let of = |name: &str| records.iter().map(|record| record[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("request_id"), ["one", "two"]);
    assert_eq!(of("level"), ["ERROR", "WARN"]);
    assert_eq!(of("message"), ["internal error", "unavailable"]);
    assert!(of("timestamp").iter().all(Value::is_string), "{records:?}");
}

#[tokio::test]
async fn no_credential_reaches_the_log_at_any_level() {
    let deployment = Deployment::with(&[("Registration", "enrollment"), ("Approval", "operator")]).await;
    for level in ["INFO", "DEBUG", "TRACE"] {
        let loud = async |binary: &str, changes: &[(&str, &str)]| {
            let changes = [&[("AWS_LAMBDA_LOG_LEVEL", level)], changes].concat();
            deployment.function_with(binary, &changes).await
        };
        let mint = loud("mint-token", &[]).await;
        let minted = async |input| {
            let minted = mint.invoke(input).await.answer();
            minted["token"].as_str().expect("a token").to_owned()
        };
        let operator = minted(json!({ "kind": "operator" })).await;
        let enrollment = minted(json!({ "kind": "enrollment", "all_boards": true })).await;
        let register = loud("register", &[]).await;
        let registration = post("/api/agents/register", &json!({ "name": "secretive" }));
        let registration = with_header(registration, "x-agent-token", &enrollment);
        let registered = call(&register, registration).await.data();
        let key = registered["apiKey"].as_str().expect("a key").to_owned();
        let verify = loud("verify", &[]).await;
        let verification = post("/api/agents/verify", &json!({ "apiKey": key }));
        let approved = with_header(verification, "authorization", &format!("Bearer {operator}"));
        call(&verify, approved).await.data();

        // A key in every place, through a success, a refusal, a failure and an outage.
        let heartbeat = loud("heartbeat", &[("EVENTS_TABLE", "no-such-table")]).await;
        let in_body =
            |status: &str| post("/api/agents/heartbeat", &json!({ "apiKey": key, "status": status }));
        let in_header = |name: &str, value: &str| {
            with_header(post("/api/agents/heartbeat", &json!({ "status": "healthy" })), name, value)
        };
        assert_eq!(call(&heartbeat, in_body("healthy")).await.status, 200);
        assert_eq!(call(&heartbeat, in_header("x-agent-token", &key)).await.status, 200);
        assert_eq!(call(&heartbeat, in_header("authorization", &format!("Bearer {key}"))).await.status, 200);
        assert_eq!(call(&heartbeat, in_body("sleepy")).await.status, 400);
        assert_eq!(call(&heartbeat, in_body("offline")).await.status, 500);
        let outage = deployment.system.proxy.inject(When::writes(), Fault::InternalError);
        assert_eq!(call(&heartbeat, in_body("healthy")).await.status, 503);
        outage.clear();
        let misdirected = json!({ "Records": [{ "body": key }], "authorization": operator });
        assert!(heartbeat.invoke(misdirected.clone()).await.is_error());
        assert!(mint.invoke(json!({ "kind": "operator", "label": 7, "key": key })).await.is_error());

        for lambda in [mint, register, verify, heartbeat] {
            lambda.stop().await;
            // The second half of a key is its secret; the first is public.
            let secrets = [&key[16..], &operator[20..], &enrollment[20..]];
            for line in lambda.logs() {
                let leaked = secrets.iter().any(|secret| line.contains(secret));
                assert!(!leaked, "at {level} a credential is logged: {line}");
            }
            log_records(&lambda);
        }
    }
}

#[tokio::test]
async fn no_address_and_no_secret_of_a_channel_reaches_the_log_at_any_level() {
    let deployment = Deployment::with(&[("WebhookTargets", "any")]).await;
    let minted = deployment.function("mint-token").await.invoke(json!({ "kind": "operator" })).await.answer();
    let operator = format!("Bearer {}", minted["token"].as_str().expect("a token"));
    for level in ["INFO", "TRACE"] {
        let loud =
            async |binary: &str| deployment.function_with(binary, &[("AWS_LAMBDA_LOG_LEVEL", level)]).await;
        let receiver = Receiver::answering(400).await;
        let (create, deliver) = (loud("create-channel").await, loud("deliver").await);
        let request = async |body: &Value| {
            let request = with_header(post("/api/v1/channels", body), "authorization", &operator);
            call(&create, request).await
        };
        let made = request(&json!({ "kind": "webhook", "url": receiver.url() })).await;
        assert_eq!(made.status, 200, "{}", made.text);
        let bad = json!({ "kind": "webhook", "url": receiver.url(), "secret": format!("whsec_{}", receiver.url()) });
        assert_eq!(request(&bad).await.status, 422);
        let outage = deployment.system.proxy.inject(When::writes(), Fault::InternalError);
        assert_eq!(request(&json!({ "kind": "slack", "url": receiver.url() })).await.status, 503);
        let tick = json!({ "source": "rollcall.deliver" });
        assert!(deliver.invoke(tick.clone()).await.is_error(), "nothing can be claimed");
        outage.clear();
        assert_eq!(deliver.invoke(tick.clone()).await.answer()["retried"], 1);
        assert_eq!(receiver.take().len(), 1);
        let misdirected = json!({ "source": receiver.url(), "Records": [made.text] });
        assert!(deliver.invoke(misdirected).await.is_error());
        let secret = made.json()["secret"].as_str().expect("a secret").replace("whsec_", "");
        for lambda in [create, deliver] {
            lambda.stop().await;
            for line in lambda.logs() {
                let leaked = ["T0-secret", &secret].iter().any(|it| line.contains(*it));
                assert!(!leaked, "at {level} a channel's secret is logged: {line}");
            }
            log_records(&lambda);
        }
    }
}

#[tokio::test]
async fn a_receiver_that_answers_nonsense_is_in_its_delivery_and_not_in_the_log() {
    let deployment = Deployment::with(&[("WebhookTargets", "any")]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let nonsense = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 1024];
        let _some = stream.read(&mut request).await.expect("a request");
        stream.write_all(b"nonsense\r\n\r\n").await.expect("an answer");
    });
    let operator = Client::operator(&deployment.system).await;
    let made = operator.post("/api/v1/channels", &json!({ "kind": "slack", "url": url })).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let deliver = deployment.function("deliver").await;
    assert_eq!(deliver.invoke(json!({ "source": "rollcall.deliver" })).await.answer()["retried"], 1);
    nonsense.await.expect("a receiver that was called");
    deliver.stop().await;
    let records = log_records(&deliver);
    assert_eq!(records.len(), 1, "its report alone: {records:?}");
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    let deliveries = operator.get(&format!("/api/v1/channels/{id}/deliveries")).await.json();
    let error = deliveries["items"][0]["attempts"][0]["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("invalid HTTP version"), "{error}");
}

/// Lambda freezes an idle environment; meanwhile the database hangs up, and the process does not see it.
#[tokio::test]
async fn a_connection_that_died_while_the_process_was_frozen_costs_no_request() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("frozen").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    call(&heartbeat, said.clone()).await.data();

    heartbeat.ready().await;
    signal(&heartbeat, "-STOP");
    deployment.system.proxy.close().await;
    deployment.system.proxy.reopen();
    // It thaws for an invocation that is there already.
    let (reply, ()) = tokio::join!(call(&heartbeat, said), async { signal(&heartbeat, "-CONT") });
    reply.data();
}

#[tokio::test]
async fn an_outage_is_over_with_the_first_request_after_it() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("patient").await;
    let heartbeat = deployment.function("heartbeat").await;
    let health = deployment.function("health").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    deployment.system.proxy.close().await;
    let refused = call(&heartbeat, said.clone()).await;
    assert_eq!(refused.refusal(), (503, "UNAVAILABLE".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(call(&health, request("GET", "/readyz")).await.status, 503);
    assert_eq!(call(&health, fixture("apigw-v2-health.json")).await.status, 200);
    deployment.system.proxy.reopen();
    call(&heartbeat, said).await.data();
    assert_eq!(call(&health, request("GET", "/readyz")).await.status, 200);
}

#[tokio::test]
async fn one_answer_that_is_lost_costs_no_request() {
    let deployment = Deployment::start().await;
    let agent = deployment.system.verified("lossy").await;
    let heartbeat = deployment.function("heartbeat").await;
    let said = post("/api/agents/heartbeat", &json!({ "apiKey": agent.key, "status": "healthy" }));
    for fault in [Fault::DropRequest, Fault::DropAnswer, Fault::Hang, Fault::Throttled] {
        let lost = deployment.system.proxy.inject(When::writes().times(1), fault.clone());
        let reply = call(&heartbeat, said.clone()).await;
        assert_eq!(reply.status, 200, "{fault:?}: {}", reply.text);
        assert_eq!(lost.hits(), 1, "{fault:?}");
    }
}

fn signal(lambda: &LambdaProcess, signal: &str) {
    let sent = Command::new("kill").args([signal, &lambda.pid().to_string()]).status();
    assert!(sent.expect("kill").success(), "kill {signal}");
}
