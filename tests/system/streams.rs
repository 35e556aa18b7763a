//! What invokes a job beside requests: a table's stream, as the template's event source mappings say.

use local::template::Resource;
use local::{Options, System};

use crate::support::{TestSystem, changed_template};

/// The shipped template, with a mapping of the events' stream to the sweep: a job that takes no records.
async fn with_mapping(name: &str, filter: &str) -> TestSystem {
    let last = "Resource: !GetAtt AlertsTable.Arn

  # Sends";
    let stream = "Resource: !GetAtt AlertsTable.Arn
            - Effect: Allow
              Action: [dynamodb:DescribeStream, dynamodb:GetRecords, dynamodb:GetShardIterator, dynamodb:ListStreams]
              Resource: !GetAtt EventsTable.StreamArn

  # Sends";
    let mapping = format!(
        "  Bell:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !Ref SweepFunction
      EventSourceArn: !GetAtt EventsTable.StreamArn
      BatchSize: 2
      StartingPosition: LATEST
      MaximumRetryAttempts: 2
      MaximumRecordAgeInSeconds: 60
      FilterCriteria: {{Filters: [{{Pattern: '{filter}'}}]}}

  # ---- Logs -"
    );
    let changes = [(last, stream), ("  # ---- Logs -", &*mapping)];
    let template = changed_template(name, &changes);
    TestSystem::with().template(template).start().await
}

#[tokio::test]
async fn a_change_of_a_table_invokes_the_function_of_its_stream() {
    let system = with_mapping("stream.yaml", r#"{"eventName": ["INSERT"]}"#).await;
    assert_eq!(system.pump().await, [], "nothing has changed");
    for name in ["a", "b", "c"] {
        system.registered(name).await;
    }
    let invocations = system.pump().await;
    for (binary, outcome) in &invocations {
        assert_eq!(binary, "sweep");
        let error = outcome.as_ref().expect_err("an event that is no tick");
        assert!(error.contains("missing field `source`"), "{error}");
    }
    assert_eq!(invocations.len(), 6, "three records are two batches, each handed over three times");
    assert_eq!(system.pump().await, [], "a batch that fails again and again is left out");
    system.registered("d").await;
    assert_eq!(system.pump().await.len(), 3);
}

#[tokio::test]
async fn a_function_gets_the_records_that_its_filter_takes() {
    let filter = r#"{"dynamodb": {"NewImage": {"event_type": {"S": [{"prefix": "agent.off"}]}}}}"#;
    let system = with_mapping("filter.yaml", filter).await;
    let agent = system.verified("a").await;
    assert_eq!(system.pump().await, []);
    system.heartbeat(&agent, "offline").await.data();
    assert_eq!(system.event_types(&agent).await, ["agent.registered", "agent.verified", "agent.offline"]);
    assert_eq!(system.pump().await.len(), 3, "one batch, handed over three times");
}

#[tokio::test]
async fn a_stream_is_read_by_what_its_functions_policies_allow() {
    let system = with_mapping("read.yaml", r#"{"eventName": ["INSERT"]}"#).await;
    let unused = || {
        let unused = system.system.unused_permissions().into_iter();
        unused.filter(|(_, permission)| matches!(permission.resource, Resource::Stream(_))).count()
    };
    system.pump().await;
    assert_eq!(unused(), 0, "{:?}", system.system.unused_permissions());
    assert_eq!(system.system.refused_permissions(), []);
    let reads = system.proxy.take();
    // This one, and the shipped template's own.
    assert_eq!(reads.operations(), ["GetRecords"; 2], "a round of streams that have nothing new");
}

#[tokio::test]
async fn an_endpoint_runs_on_no_schedule() {
    let route = "Healthz: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: /healthz}}";
    let schedule =
        "Healthz: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 minute), Input: '{}'}}";
    let parameters = [("Registration", "open"), ("Approval", "key")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let template = changed_template("schedule.yaml", &[(route, schedule)]);
    let refused = System::start(Options { template, parameters, ..Options::default() }).await;
    let refused = refused.err().expect("a refusal").to_string();
    assert_eq!(
        refused,
        "the template's function HealthFunction: the binary \"health\" cannot be invoked by a schedule"
    );
}
