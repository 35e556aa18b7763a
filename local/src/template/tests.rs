use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Function, Place, Route, StreamMapping, Template, TemplateError, Trigger};

const REAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../template.yaml"));

fn read(text: &str, parameters: &[(&str, &str)]) -> Result<Template, TemplateError> {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let table_name = |logical_id: &str| format!("local-{logical_id}");
    let place = Place { table_name: &table_name, api_url: "http://local" };
    Template::read("template.yaml", text, &parameters.collect(), place)
}

fn error(text: &str, parameters: &[(&str, &str)]) -> String {
    read(text, parameters).expect_err("this template must be refused").to_string()
}

fn real(parameters: &[(&str, &str)]) -> Template {
    let modes = [("Registration", "open"), ("Approval", "key")];
    read(REAL, &[&modes, parameters].concat()).expect("the shipped template")
}

/// A template with one function, whose environment is this one line.
fn with_variable(line: &str) -> String {
    format!(
        "Transform: AWS::Serverless-2016-10-31
Parameters:
  Mode: {{Type: String, Default: open}}
  Origins: {{Type: CommaDelimitedList, Default: 'a, b,c'}}
Conditions:
  IsOpen: !Equals [!Ref Mode, open]
  IsClosed: !Not [!Condition IsOpen]
Resources:
  Log: {{Type: AWS::Logs::LogGroup}}
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{{AttributeName: id, AttributeType: S}}]
      KeySchema: [{{AttributeName: id, KeyType: HASH}}]
  Function:
    Type: AWS::Serverless::Function
    Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: {{Binary: x}}}}
    Properties:
      Environment:
        Variables:
          {line}
"
    )
}

/// The line of the variable in `with_variable`.
const VARIABLE: usize = 21;

/// The value of the variable `V`, if it has one.
fn variable(value: &str) -> Option<String> {
    let template = read(&with_variable(&format!("V: {value}")), &[]).expect("a template that is understood");
    template.functions[0].environment.get("V").cloned()
}

/// A template with this resource from line 3 on.
fn with_resource(resource: &str) -> String {
    format!("Transform: AWS::Serverless-2016-10-31\nResources:\n{resource}")
}

// ---- The shipped template ----

#[test]
fn the_shipped_template_is_understood() {
    let template = real(&[]);
    let binaries: Vec<&str> = template.functions.iter().map(|function| function.binary.as_str()).collect();
    let distinct: BTreeSet<&str> = binaries.iter().copied().collect();
    assert_eq!(distinct.len(), binaries.len(), "each function has its own binary");
    for binary in
        ["register", "verify", "heartbeat", "post-events", "health", "fallback", "sweep", "mint-token"]
    {
        assert!(distinct.contains(binary), "{binary} is missing");
    }
}

#[test]
fn the_shipped_template_needs_both_modes() {
    let missing = error(REAL, &[("Registration", "open")]);
    assert!(missing.ends_with("parameter `Approval` has no default and needs a value"), "{missing}");
    let missing = error(REAL, &[("Approval", "key")]);
    assert!(missing.ends_with("parameter `Registration` has no default and needs a value"), "{missing}");
}

#[test]
fn all_shipped_tables_but_the_secrets_expire_their_rows_by_the_same_attribute() {
    for table in real(&[]).tables {
        let expires = (table.logical_id != "SecretsTable").then_some("expires_at");
        assert_eq!(table.ttl_attribute.as_deref(), expires, "{}", table.logical_id);
    }
}

#[test]
fn only_the_shipped_events_and_alerts_have_a_stream() {
    let tables = real(&[]).tables;
    let streams = tables.iter().filter_map(|table| table.stream_view_type.as_ref().map(|view| (table, view)));
    let streams: Vec<_> = streams.map(|(table, view)| (table.logical_id.as_str(), view.as_str())).collect();
    assert_eq!(streams, [("EventsTable", "NEW_IMAGE"), ("AlertsTable", "KEYS_ONLY")]);
}

#[test]
fn what_the_shipped_functions_know_are_the_tables_and_the_parameters() {
    let expected = BTreeMap::from([
        ("AGENTS_TABLE", "local-AgentsTable"),
        ("EVENTS_TABLE", "local-EventsTable"),
        ("WINDOWS_TABLE", "local-WindowsTable"),
        ("TOKENS_TABLE", "local-TokensTable"),
        ("CHANNELS_TABLE", "local-ChannelsTable"),
        ("SECRETS_TABLE", "local-SecretsTable"),
        ("ALERTS_TABLE", "local-AlertsTable"),
        ("REGISTRATION", "open"),
        ("APPROVAL", "key"),
        ("RATE_LIMIT_PER_MINUTE", "7"),
        ("MAX_PROMISE_SECONDS", "86400"),
        ("REGISTER_LIMIT_PER_IP", "300"),
        ("VERIFY_FAILURE_LIMIT_PER_IP", "300"),
        ("EVENT_RETENTION_DAYS", "30"),
        ("SYSTEM_EVENT_RETENTION_DAYS", "400"),
        ("PENDING_RETENTION_DAYS", "7"),
        ("SWEEP_SEGMENTS", "4"),
        ("SWEEP_EVERY_SECONDS", "60"),
        ("ALERT_RETENTION_DAYS", "30"),
        ("FORGET_AFTER_DAYS", "0"),
        ("ALERT_AFTER_MISSED", "3"),
        ("CANARY_URL", "http://local"),
        ("API_URL", "http://local"),
        ("TRUSTED_PROXY_HOPS", "0"),
        ("TRUSTED_ADDRESS_HEADER", "none"),
        ("ALERT_RETENTION_DAYS", "30"),
        ("WEBHOOK_TARGETS", "public"),
    ]);
    let functions = real(&[("RateLimitPerMinute", "7")]).functions;
    let known = functions.iter().flat_map(|function| &function.environment);
    let known: BTreeMap<_, _> = known.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(known, expected);
}

#[test]
fn the_shipped_sweep_and_what_delivers_run_every_minute_and_nothing_else_is_scheduled() {
    let functions = real(&[]).functions;
    let scheduled = functions.iter().flat_map(|function| {
        function
            .schedules()
            .map(|schedule| (function.binary.as_str(), schedule.every, schedule.input.as_str()))
    });
    let minute = Duration::from_mins(1);
    assert_eq!(
        scheduled.collect::<Vec<_>>(),
        [
            ("sweep", minute, r#"{"source": "rollcall.sweep"}"#),
            ("deliver", minute, r#"{"source": "rollcall.deliver"}"#),
        ]
    );
}

#[test]
fn the_shipped_fallback_answers_the_default_route() {
    let functions = real(&[]).functions;
    let fallback = functions.iter().find(|function| function.routes().any(|route| *route == Route::Default));
    assert_eq!(fallback.expect("a default route").binary, "fallback");
}

#[test]
fn shipped_functions_in_front_of_callers_end_before_the_api_gives_up() {
    for function in real(&[]).functions.iter().filter(|function| function.routes().next().is_some()) {
        assert!(function.timeout < Duration::from_secs(30), "{}", function.logical_id);
    }
}

#[test]
fn shipped_cors_allows_the_given_origins_and_shows_the_limits() {
    let cors = real(&[]).cors.expect("CORS");
    assert_eq!(cors.allow_origins, ["*"]);
    assert!(cors.allow_headers.contains(&"x-agent-token".to_owned()));
    assert!(cors.expose_headers.contains(&"retry-after".to_owned()));
    let cors = real(&[("CorsOrigins", "https://a.example, https://b.example")]).cors.expect("CORS");
    assert_eq!(cors.allow_origins, ["https://a.example", "https://b.example"]);
}

#[test]
fn scan_is_for_the_shipped_sweep_alone() {
    let may_scan = |function: &Function| {
        function.permissions.iter().any(|permission| permission.action == "dynamodb:Scan")
    };
    let scanning: Vec<_> = real(&[]).functions.into_iter().filter(may_scan).collect();
    let [sweep] = &scanning[..] else { panic!("{scanning:?}") };
    assert_eq!(sweep.binary, "sweep");
}

// ---- Parameters ----

#[test]
fn a_parameter_out_of_bounds_is_refused_by_name() {
    let modes = [("Registration", "open"), ("Approval", "key")];
    let refused = |name, value| {
        let message = error(REAL, &[&modes[..], &[(name, value)]].concat());
        message.split_once(": ").expect("the line, then the reason").1.to_owned()
    };
    assert_eq!(
        refused("RateLimitPerMinute", "0"),
        "parameter `RateLimitPerMinute` is `0`, but must be a whole number from 1 to 6000"
    );
    assert_eq!(
        refused("TrustedProxyHops", "11"),
        "parameter `TrustedProxyHops` is `11`, but must be a whole number from 0 to 10"
    );
    assert_eq!(
        refused("PendingRetentionDays", "week"),
        "parameter `PendingRetentionDays` is `week`, but must be a whole number from 1 to 365"
    );
    assert_eq!(
        refused("Architecture", "riscv"),
        "parameter `Architecture` is `riscv`, but must be one of arm64, x86_64"
    );
}

#[test]
fn a_number_is_within_its_bounds_and_a_pattern_matches_the_whole_of_a_text() {
    let number = |bounds: &str| {
        with_variable("V: x").replace("{Type: String, Default: open}", &format!("{{Type: Number, {bounds}}}"))
    };
    for (given, bounds, expected) in [
        ("0", "MinValue: 1", Some("at least 1")),
        ("11", "MaxValue: 10", Some("at most 10")),
        ("week", "MinValue: 1", Some("a number")),
        ("7", "MinValue: 1, MaxValue: 10", None),
    ] {
        let read = read(&number(bounds), &[("Mode", given)]);
        match expected {
            Some(expected) => {
                let refused = read.expect_err(given).to_string();
                assert!(refused.ends_with(&format!("is `{given}`, but must be {expected}")), "{refused}");
            }
            None => drop(read.expect(given)),
        }
    }
    let text = with_variable("V: x").replace("Default: open}", "AllowedPattern: a|bc}");
    read(&text, &[("Mode", "bc")]).expect("what the pattern allows");
    for refused in ["ab", "bcd", "xa", ""] {
        let refused = error(&text, &[("Mode", refused)]);
        assert!(refused.ends_with("but must be like ^(?:a|bc)$"), "{refused}");
    }
}

/// A number with a fraction would pass `CloudFormation` and stop every function at its start.
#[test]
fn every_count_of_the_template_is_refused_where_its_description_says_so() {
    let parameters = REAL.split("\nConditions:").next().expect("parameters");
    let mut counts = 0;
    for block in parameters.split("\n\n") {
        let field = |name| block.lines().find_map(|line| line.trim().strip_prefix(name));
        assert_ne!((field("Type: "), field("AllowedValues: ")), (Some("Number"), None), "{block}");
        let Some(bounds) = field("ConstraintDescription: a whole number from ") else { continue };
        counts += 1;
        let (least, most) = bounds.split_once(" to ").expect("two numbers");
        let (least, most): (u64, u64) = (least.parse().expect("a number"), most.parse().expect("a number"));
        let pattern =
            regex_lite::Regex::new(field("AllowedPattern: ").expect("a pattern")).expect("a pattern");
        for number in (0..=70_000).chain([most - 1, most, most + 1]) {
            assert_eq!(
                pattern.is_match(&number.to_string()),
                (least..=most).contains(&number),
                "{number} in {block}"
            );
        }
        for text in ["60.5", "1.0", "-1", "+1", " 1", "1 ", "1e3", "01", "", "x"] {
            assert!(!pattern.is_match(text), "{text:?} in {block}");
        }
    }
    assert!(counts > 10, "{counts}");
}

#[test]
fn parameters_that_do_not_go_together_are_refused_by_the_shipped_rules() {
    let closed = [("Registration", "open"), ("Approval", "key")];
    let domain = ("DomainName", "rollcall.example");
    let certificate = ("CertificateArn", "arn:aws:acm:us-east-1:000000000000:certificate/1");
    let header = ("TrustedAddressHeader", "CloudFront-Viewer-Address");
    for (given, refused) in [
        (vec![domain], Some("DomainName needs CertificateArn")),
        (vec![header], Some("TrustedAddressHeader needs DomainName")),
        (vec![domain, certificate, header], None),
    ] {
        let given = [&closed[..], &given].concat();
        if let Some(refused) = refused {
            let error = error(REAL, &given);
            assert!(error.contains(refused), "{error}");
            continue;
        }
        let functions = read(REAL, &given).expect("parameters that go together").functions;
        let url =
            |variable| functions.iter().find_map(|function| function.environment.get(variable).cloned());
        let there = Some("https://rollcall.example".to_owned());
        assert_eq!([url("API_URL"), url("CANARY_URL")], [there.clone(), there]);
    }
    let text = REAL.replace("    RuleCondition:", "    Mood: good\n    RuleCondition:");
    assert!(error(&text, &closed).ends_with("`Mood` of a rule is not understood"));
}

#[test]
fn an_unknown_parameter_is_refused() {
    let text = with_variable("V: x");
    assert_eq!(error(&text, &[("Mood", "good")]), "template.yaml:3: there is no parameter `Mood`");
}

#[test]
fn a_parameter_names_its_line() {
    let text = with_variable("V: x").replace("{Type: String, Default: open}", "{Type: String}");
    assert_eq!(error(&text, &[]), "template.yaml:3: parameter `Mode` has no default and needs a value");
    let text = with_variable("V: x").replace("Default: open", "Default: open, NoEcho: true");
    assert_eq!(error(&text, &[]), "template.yaml:3: `NoEcho` of a parameter is not understood");
    let text = with_variable("V: x").replace("CommaDelimitedList", "AWS::EC2::KeyPair::KeyName");
    assert!(error(&text, &[]).starts_with("template.yaml:4: `AWS::EC2::KeyPair::KeyName` is not understood"));
}

// ---- Functions over names ----

#[test]
fn functions_give_what_a_deployment_gives() {
    for (expression, value) in [
        ("10", "10"),
        ("true", "true"),
        ("!Ref Mode", "open"),
        ("{Ref: Mode}", "open"),
        ("!Ref Table", "local-Table"),
        ("!Ref AWS::Region", "local"),
        ("!GetAtt Table.Arn", "arn:aws:dynamodb:local:000000000000:table/local-Table"),
        ("{Fn::GetAtt: [Table, Arn]}", "arn:aws:dynamodb:local:000000000000:table/local-Table"),
        (
            "!Sub '${Mode}-${AWS::Region}-${!Mode}-${Table.Arn}'",
            "open-local-${Mode}-arn:aws:dynamodb:local:000000000000:table/local-Table",
        ),
        ("!Sub ['${A}${Mode}', {A: !Ref Table}]", "local-Tableopen"),
        ("{Fn::Sub: 'x-${Mode}'}", "x-open"),
        ("!If [IsOpen, yes, no]", "yes"),
        ("{Fn::If: [IsClosed, yes, !Ref Mode]}", "open"),
        ("!Join ['-', [a, !Ref Mode]]", "a-open"),
        ("!Join ['|', !Ref Origins]", "a|b|c"),
        ("!Select [1, !Split [',', 'x,y,z']]", "y"),
    ] {
        assert_eq!(variable(expression).as_deref(), Some(value), "{expression}");
    }
}

#[test]
fn no_value_leaves_a_property_out() {
    assert_eq!(variable("!Ref AWS::NoValue"), None);
    assert_eq!(variable("!If [IsClosed, x, !Ref AWS::NoValue]"), None);
}

#[test]
fn conditions_combine() {
    let holds = |condition: &str| {
        let text = with_variable("V: !If [C, yes, no]")
            .replace("Resources:", &format!("  C: {condition}\nResources:"));
        read(&text, &[]).expect("a condition").functions[0].environment["V"] == "yes"
    };
    assert!(holds("!And [!Condition IsOpen, !Equals [a, a]]"));
    assert!(!holds("!And [!Condition IsOpen, !Condition IsClosed]"));
    assert!(holds("!Or [{Condition: IsClosed}, {Condition: IsOpen}]"));
    assert!(holds("{Fn::Not: [{Fn::Equals: [!Ref Mode, closed]}]}"));
}

#[test]
fn what_is_not_understood_names_its_line() {
    for (expression, message) in [
        ("!Base64 x", "`!Base64` is not understood"),
        ("{Fn::ImportValue: x}", "`Fn::ImportValue` is not understood"),
        ("{Fn::If: [IsOpen, a, b], Other: x}", "`Fn::If` must be the only key of its map"),
        ("!Ref Nothing", "there is no parameter or resource `Nothing`"),
        ("!Ref Log", "`Log` (AWS::Logs::LogGroup) does not exist on this machine"),
        ("!GetAtt Log.Arn", "`Log` (AWS::Logs::LogGroup) does not exist on this machine"),
        ("!GetAtt Table.Name", "`Table.Name` is not understood"),
        ("!GetAtt Table", "`Table` names no attribute"),
        ("!Sub 'a-${Mode'", "`${` without its `}`"),
        ("!Sub '${Origins}'", "a text is expected here, not a list"),
        ("!If [IsOpen, a]", "!If takes a list of 3"),
        ("!If [Unknown, a, b]", "there is no condition `Unknown`"),
        ("!Equals [a, b]", "!Equals belongs under Conditions"),
        ("!Select [3, !Ref Origins]", "there is no item 3 to select"),
        ("[a, b]", "a text is expected here, not a list"),
        ("", "a value is missing"),
    ] {
        let text = with_variable(&format!("V: {expression}"));
        assert_eq!(error(&text, &[]), format!("template.yaml:{VARIABLE}: {message}"), "{expression}");
    }
}

#[test]
fn a_condition_that_needs_itself_is_refused() {
    let text = with_variable("V: !If [IsOpen, a, b]")
        .replace("!Equals [!Ref Mode, open]", "!Not [!Condition IsClosed]");
    assert_eq!(error(&text, &[]), "template.yaml:7: condition `IsOpen` depends on itself");
}

#[test]
fn broken_yaml_names_its_line() {
    assert_eq!(error("Transform: [a\nResources: b\n", &[]).split(": ").next(), Some("template.yaml:2"));
    let twice = error("Transform: a\nDescription: b\nTransform: c\n", &[]);
    assert_eq!(twice, "template.yaml:3: duplicated key in mapping");
    assert_eq!(error("", &[]), "template.yaml:1: one YAML document is expected");
}

// ---- Resources ----

#[test]
fn a_resource_whose_condition_is_false_does_not_exist() {
    let text = with_variable("V: x")
        .replace("    Type: AWS::DynamoDB::Table", "    Type: AWS::DynamoDB::Table\n    Condition: IsOpen");
    assert_eq!(read(&text, &[]).expect("open").tables.len(), 1);
    assert_eq!(read(&text, &[("Mode", "closed")]).expect("closed").tables.len(), 0);
}

#[test]
fn an_unknown_section_resource_type_or_property_is_refused() {
    for (text, message) in [
        (
            "Transform: AWS::Serverless-2016-10-31\nMappings: {}\nResources: {}\n".to_owned(),
            "template.yaml:2: `Mappings` of a template is not understood",
        ),
        (
            "Transform: AWS::LanguageExtensions\nResources: {}\n".to_owned(),
            "template.yaml:1: `AWS::LanguageExtensions` is not understood; expected \
             AWS::Serverless-2016-10-31",
        ),
        (
            with_resource("  Queue:\n    Type: AWS::SQS::Queue\n"),
            "template.yaml:4: the resource type `AWS::SQS::Queue` is not understood",
        ),
        (
            with_resource("  Log:\n    Type: AWS::Logs::LogGroup\n    CreationPolicy: {}\n"),
            "template.yaml:5: `CreationPolicy` of a resource is not understood",
        ),
        (
            with_resource(
                "  Table:\n    Type: AWS::DynamoDB::Table\n    Properties:\n      TableName: fixed\n",
            ),
            "template.yaml:6: `TableName` of AWS::DynamoDB::Table is not understood",
        ),
        (
            with_resource("  F:\n    Type: AWS::Serverless::Function\n    Properties: {}\n"),
            "template.yaml:4: a resource needs `Metadata`",
        ),
    ] {
        assert_eq!(error(&text, &[]), message);
    }
}

#[test]
fn a_table_with_an_index_is_understood() {
    let table = "  Tokens:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions:
        - {AttributeName: id, AttributeType: S}
        - {AttributeName: created_at, AttributeType: N}
      KeySchema: [{AttributeName: id, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - IndexName: by_age
          KeySchema:
            - {AttributeName: id, KeyType: HASH}
            - {AttributeName: created_at, KeyType: RANGE}
          Projection: {ProjectionType: INCLUDE, NonKeyAttributes: [label]}
      TimeToLiveSpecification: {AttributeName: expires_at, Enabled: false}
";
    let template = read(&with_resource(table), &[]).expect("a table");
    let table_read = &template.tables[0];
    let [index] = &table_read.global_secondary_indexes[..] else { panic!("{table_read:?}") };
    assert_eq!(index.name, "by_age");
    assert_eq!(index.key_schema[1].attribute, "created_at");
    assert_eq!(index.key_schema[1].key_type, "RANGE");
    assert_eq!(index.projection_type, "INCLUDE");
    assert_eq!(index.non_key_attributes, ["label"]);
    assert_eq!(table_read.ttl_attribute, None, "time to live that is switched off");

    let undefined =
        with_resource(&table.replace("AttributeName: created_at, KeyType", "AttributeName: age, KeyType"));
    assert_eq!(error(&undefined, &[]), "template.yaml:15: `age` is not among the AttributeDefinitions");
}

const API: &str = "  Api: {Type: AWS::Serverless::HttpApi, Properties: {StageName: $default}}\n";

fn with_event(event: &str) -> String {
    with_resource(&format!(
        "{API}  F:
    Type: AWS::Serverless::Function
    Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: {{Binary: x}}}}
    Properties:
      Timeout: 5
      Events:
        E: {event}
"
    ))
}

#[test]
fn routes_and_schedules_are_read() {
    let function = |event| read(&with_event(event), &[]).expect("an event").functions.remove(0);

    let route = function("{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: '/a/{id}'}}");
    let exact = Route::Exact { method: "GET".to_owned(), path: "/a/{id}".to_owned() };
    assert_eq!(exact.to_string(), "GET /a/{id}");
    assert_eq!(route.triggers, [Trigger::HttpApi(exact)]);
    assert_eq!(route.timeout, Duration::from_secs(5));

    let default = function("{Type: HttpApi, Properties: {ApiId: !Ref Api}}");
    assert_eq!(default.triggers, [Trigger::HttpApi(Route::Default)]);

    let schedule =
        function("{Type: ScheduleV2, Properties: {ScheduleExpression: rate(5 minutes), Input: '{}'}}");
    assert_eq!(schedule.schedules().next().expect("a schedule").every, Duration::from_mins(5));
}

#[test]
fn an_event_that_is_not_understood_names_its_line() {
    for (event, message) in [
        ("{Type: SQS, Properties: {}}", "`SQS` is not understood; expected HttpApi, ScheduleV2"),
        ("{Type: HttpApi, Properties: {Method: GET, Path: /a}}", "an HttpApi event needs `ApiId`"),
        (
            "{Type: HttpApi, Properties: {ApiId: !Ref F, Method: GET, Path: /a}}",
            "`F` is not an AWS::Serverless::HttpApi of this template",
        ),
        (
            "{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET}}",
            "a route needs both `Method` and `Path`, or neither",
        ),
        (
            "{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: ANY, Path: /a}}",
            "`ANY` is not understood; expected GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
        ),
        (
            "{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: '/{proxy+}'}}",
            "the path `/{proxy+}` is not understood",
        ),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: cron(0 * * * ? *), Input: '{}'}}",
            "expected a rate, as in `rate(1 minute)` or `rate(5 minutes)`",
        ),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 minute)}}",
            "a ScheduleV2 event needs `Input`",
        ),
    ] {
        assert_eq!(error(&with_event(event), &[]), format!("template.yaml:10: {message}"), "{event}");
    }
}

#[test]
fn two_functions_cannot_have_the_same_route() {
    let event = "{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: /a}}";
    let twice = format!(
        "{}  G:
    Type: AWS::Serverless::Function
    Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: {{Binary: y}}}}
    Properties: {{Events: {{E: {event}}}}}
",
        with_event(event)
    );
    assert_eq!(error(&twice, &[]), "template.yaml:11: `G` has a route that another function has: GET /a");
}

#[test]
fn a_throttle_for_a_route_that_no_function_has_is_refused() {
    let settings = "StageName: $default, RouteSettings: {GET /b: {ThrottlingRateLimit: 1}}";
    let text = with_event("{Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: /a}}");
    let text = text.replace("StageName: $default", settings);
    assert_eq!(error(&text, &[]), "template.yaml:3: no function has the route `GET /b`");
}

#[test]
fn a_function_adds_to_what_all_functions_share() {
    let function = "  F:
    Type: AWS::Serverless::Function
    Metadata: {BuildMethod: rust-cargolambda, BuildProperties: {Binary: x}}
    Properties:
      Environment: {Variables: {B: own, C: own}}
Globals:
  Function:
    Timeout: 7
    Environment: {Variables: {A: shared, B: shared}}
";
    let function = read(&with_resource(function), &[]).expect("a function").functions.remove(0);
    let expected = [("A", "shared"), ("B", "own"), ("C", "own")];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(function.environment, expected);
    assert_eq!(function.timeout, Duration::from_secs(7));
}

// ---- Policies ----

/// A template whose function has these policies; its table has an index.
fn with_policies(policies: &str) -> String {
    with_variable("V: x")
        .replace(
            "      Environment:\n        Variables:\n          V: x\n",
            &format!("      Policies: {policies}\n"),
        )
        .replace(
            "      KeySchema: [{AttributeName: id, KeyType: HASH}]\n",
            "      KeySchema: [{AttributeName: id, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - IndexName: by_id
          KeySchema: [{AttributeName: id, KeyType: HASH}]
          Projection: {ProjectionType: ALL}
",
        )
}

#[test]
fn policies_are_taken_apart_into_permissions() {
    for (policies, expected) in [
        ("[]", &[][..]),
        (
            "[{Statement: [{Effect: Allow, Action: dynamodb:GetItem, Resource: !GetAtt Table.Arn}]}]",
            &["dynamodb:GetItem on arn:aws:dynamodb:local:000000000000:table/local-Table"],
        ),
        (
            "{Version: 2012-10-17, Statement: {Sid: A, Effect: Allow, Action: [dynamodb:Query], Resource: \
             [!GetAtt Table.Arn, !Sub '${Table.Arn}/index/by_id']}}",
            &[
                "dynamodb:Query on arn:aws:dynamodb:local:000000000000:table/local-Table",
                "dynamodb:Query on arn:aws:dynamodb:local:000000000000:table/local-Table/index/by_id",
            ],
        ),
        (
            "[{Statement: [!If [IsClosed, {Effect: Allow, Action: dynamodb:Scan, Resource: !GetAtt Table.Arn}, \
             !Ref AWS::NoValue]]}]",
            &[],
        ),
    ] {
        let function = read(&with_policies(policies), &[]).expect("policies").functions.remove(0);
        let permissions: Vec<_> = function.permissions.iter().map(ToString::to_string).collect();
        assert_eq!(permissions, expected, "{policies}");
    }
}

#[test]
fn a_policy_that_is_not_understood_names_its_line() {
    let actions = "dynamodb:BatchGetItem, dynamodb:BatchWriteItem, dynamodb:ConditionCheckItem, \
                   dynamodb:DeleteItem, dynamodb:GetItem, dynamodb:PutItem, dynamodb:Query, dynamodb:Scan, \
                   dynamodb:UpdateItem";
    let no_table = "is no table of this template, and no index or stream of one";
    for (statement, message) in [
        ("Effect: Deny", "`Deny` is not understood; expected Allow".to_owned()),
        ("Effect: Allow, Condition: {}", "`Condition` of a policy's statement is not understood".to_owned()),
        ("Effect: Allow, Action: dynamodb:GetItem", "a policy's statement needs `Resource`".to_owned()),
        ("Effect: Allow, Resource: !GetAtt Table.Arn", "a policy's statement needs `Action`".to_owned()),
        (
            "Effect: Allow, Action: dynamodb:*, Resource: !GetAtt Table.Arn",
            format!("`dynamodb:*` is not understood; expected {actions}"),
        ),
        (
            "Effect: Allow, Action: dynamodb:TransactWriteItems, Resource: !GetAtt Table.Arn",
            format!("`dynamodb:TransactWriteItems` is not understood; expected {actions}"),
        ),
        ("Effect: Allow, Action: dynamodb:GetItem, Resource: '*'", format!("`*` {no_table}")),
        (
            "Effect: Allow, Action: dynamodb:Query, Resource: !Sub '${Table.Arn}/index/*'",
            format!("`arn:aws:dynamodb:local:000000000000:table/local-Table/index/*` {no_table}"),
        ),
        (
            "Effect: Allow, Action: [dynamodb:GetItem, dynamodb:GetItem], Resource: !GetAtt Table.Arn",
            "dynamodb:GetItem on arn:aws:dynamodb:local:000000000000:table/local-Table is allowed twice"
                .to_owned(),
        ),
    ] {
        let text = with_policies(&format!("[{{Statement: [{{{statement}}}]}}]"));
        let line = text.lines().position(|line| line.contains("Policies:")).expect("policies") + 1;
        assert_eq!(error(&text, &[]), format!("template.yaml:{line}: {message}"), "{statement}");
    }
    let text = with_policies("[AmazonDynamoDBReadOnlyAccess]");
    assert!(error(&text, &[]).ends_with("a map is expected here, not a text"), "a policy of AWS's");
    let text = with_policies("[{DynamoDBReadPolicy: {TableName: !Ref Table}}]");
    assert!(
        error(&text, &[]).ends_with("`DynamoDBReadPolicy` of a policy is not understood"),
        "one of SAM's"
    );
}

// ---- Streams ----

/// A table with a stream, a function that may read it, and a mapping with these properties on line 13.
fn with_mapping(properties: &str) -> String {
    format!(
        "Transform: AWS::Serverless-2016-10-31
Resources:
  Log:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{{AttributeName: id, AttributeType: S}}]
      KeySchema: [{{AttributeName: id, KeyType: HASH}}]
      StreamSpecification: {{StreamViewType: KEYS_ONLY}}
  Quiet: {{Type: AWS::DynamoDB::Table, Properties: {{AttributeDefinitions: [], KeySchema: []}}}}
  Bell:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      {properties}
  Deaf: {{Type: AWS::Serverless::Function, Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: {{Binary: y}}}}, \
         Properties: {{}}}}
  Deliver:
    Type: AWS::Serverless::Function
    Metadata: {{BuildMethod: rust-cargolambda, BuildProperties: {{Binary: x}}}}
    Properties:
      Policies:
        - Statement:
            - Effect: Allow
              Action:
                - dynamodb:DescribeStream
                - dynamodb:GetRecords
                - dynamodb:GetShardIterator
                - dynamodb:ListStreams
              Resource: !GetAtt Log.StreamArn
"
    )
}

const BELL: &str = "{FunctionName: !Ref Deliver, EventSourceArn: !GetAtt Log.StreamArn, BatchSize: 25, \
                    StartingPosition: LATEST, MaximumRetryAttempts: 2, MaximumRecordAgeInSeconds: 60}";

#[test]
fn a_mapping_gives_a_function_the_records_of_a_stream() {
    for function in ["!Ref Deliver", "!GetAtt Deliver.Arn"] {
        let text = with_mapping(&BELL.replace("!Ref Deliver", function));
        let functions = read(&text, &[]).expect("a mapping").functions;
        let deliver = functions.iter().find(|function| function.binary == "x").expect("a function");
        let expected = StreamMapping {
            table: "local-Log".to_owned(),
            batch_size: 25,
            starting_position: "LATEST".to_owned(),
            filters: Vec::new(),
            retries: 2,
            max_age: Duration::from_mins(1),
        };
        assert_eq!(deliver.streams().collect::<Vec<_>>(), [&expected]);
    }
    let filter = r#"FilterCriteria: {Filters: [{Pattern: '{"eventName": ["INSERT"]}'}]}, BatchSize"#;
    let functions = read(&with_mapping(&BELL.replace("BatchSize", filter)), &[]).expect("a filter").functions;
    let filters: Vec<_> = functions.iter().flat_map(Function::streams).flat_map(|it| &it.filters).collect();
    let [filter] = filters[..] else { panic!("{filters:?}") };
    assert!(filter.matches(&serde_json::json!({ "eventName": "INSERT" })));
    assert!(!filter.matches(&serde_json::json!({ "eventName": "REMOVE" })));
}

#[test]
fn a_mapping_that_is_not_understood_names_its_line() {
    let stream = "arn:aws:dynamodb:local:000000000000:table/local-Log/stream/latest";
    for (old, new, message) in [
        ("BatchSize: 25, ", "", "AWS::Lambda::EventSourceMapping needs `BatchSize`".to_owned()),
        ("MaximumRetryAttempts: 2", "MaximumRetryAttempts: -1", "`-1` is not a whole number from 0 up".to_owned()),
        (
            "BatchSize: 25",
            "BatchSize: 25, BisectBatchOnFunctionError: true",
            "`BisectBatchOnFunctionError` of AWS::Lambda::EventSourceMapping is not understood".to_owned(),
        ),
        ("LATEST", "NOW", "`NOW` is not understood; expected LATEST, TRIM_HORIZON".to_owned()),
        (
            "Log.StreamArn",
            "Quiet.StreamArn",
            "`arn:aws:dynamodb:local:000000000000:table/local-Quiet/stream/latest` is no table of this template, \
             and no index or stream of one"
                .to_owned(),
        ),
        (
            "Log.StreamArn",
            "Log.Arn",
            "`arn:aws:dynamodb:local:000000000000:table/local-Log` is no table's stream".to_owned(),
        ),
        ("Ref Deliver", "Ref Log", "`local-Log` is no function of this template".to_owned()),
        ("Ref Deliver", "Ref Deaf", format!("a stream's function needs dynamodb:DescribeStream on {stream}")),
        (
            "BatchSize: 25",
            r#"BatchSize: 25, FilterCriteria: {Filters: [{Pattern: '{"eventName": [{"suffix": "T"}]}'}]}"#,
            r#"`{"suffix":"T"}` of the pattern is not understood"#.to_owned(),
        ),
    ] {
        let text = with_mapping(&BELL.replace(old, new));
        assert_eq!(error(&text, &[]), format!("template.yaml:13: {message}"), "{new}");
    }
}
