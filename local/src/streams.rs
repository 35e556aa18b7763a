//! Lambda's part for streams: reads the changes of a table, and hands them to a function, batch by batch.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::config::BehaviorVersion;
use aws_sdk_dynamodbstreams::error::ProvideErrorMetadata;
use aws_sdk_dynamodbstreams::types::{AttributeValue, Record, ShardIteratorType, StreamStatus};
use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};
use shared::store::chain;
use shared::time::Timestamp;
use tokio::sync::Mutex;

use crate::database::Connection;
use crate::policy::Policy;
use crate::template::{Resource, StreamMapping};

/// How many records are read at once. A round ends with the first page that is not full.
const PAGE: i32 = 1_000;

/// What came of one invocation by a stream: the function's binary, and its answer or why it failed.
pub type StreamInvocation = (String, Result<Value, String>);

/// What reads one stream for one function.
pub(crate) struct StreamReader {
    binary: String,
    mapping: StreamMapping,
    client: Client,
    stream_arn: String,
    /// By shard, where its reading goes on. Locked by a round, so that there are never two at once.
    shards: Mutex<BTreeMap<String, Shard>>,
}

/// How far a shard is read.
#[derive(Default)]
struct Shard {
    /// Where the next page begins; none once the shard has ended.
    iterator: Option<String>,
    /// The last record that was read.
    last: Option<String>,
}

impl StreamReader {
    /// Finds the stream, and the place from which on it is read. It is read with what the function's policy allows.
    pub(crate) async fn open(
        database: &Connection,
        policy: &Arc<Policy>,
        binary: String,
        mapping: StreamMapping,
    ) -> Result<Self, String> {
        let held = policy.hold(&database.client, Some(Resource::Stream(mapping.table.clone())));
        let rows = database.client.config();
        let mut config = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(rows.region().cloned())
            .endpoint_url(endpoint_of_streams(&database.url))
            .credentials_provider(database.credentials.clone())
            .http_client(held);
        config.set_timeout_config(rows.timeout_config().cloned());
        config.set_retry_config(rows.retry_config().cloned());
        let client = Client::from_conf(config.build());
        let stream_arn = stream_of(&client, &mapping.table).await?;
        let reader = Self { binary, mapping, client, stream_arn, shards: Mutex::default() };
        let start = reader.mapping.starting_position.as_str().into();
        reader.find_shards(&mut *reader.shards.lock().await, &start).await?;
        Ok(reader)
    }

    /// The function's binary.
    pub(crate) fn binary(&self) -> &str {
        &self.binary
    }

    /// Hands everything that is there now to the function, by `invoke`, and says what came of it.
    pub(crate) async fn round<Done: Future<Output = Result<Value, String>>>(
        &self,
        invoke: impl Fn(String) -> Done,
    ) -> Result<Vec<StreamInvocation>, String> {
        let mut invocations = Vec::new();
        let mut shards = self.shards.lock().await;
        let mut ended = false;
        for (shard_id, shard) in shards.iter_mut() {
            while let Some(iterator) = shard.iterator.clone() {
                let page = self.client.get_records().shard_iterator(iterator).limit(PAGE).send().await;
                let page = match page {
                    Ok(page) => page,
                    Err(error) if error.code() == Some("ExpiredIteratorException") => {
                        shard.iterator = self.iterator_after(shard_id, shard.last.as_ref()).await?;
                        continue;
                    }
                    Err(error) => return Err(chain(&error)),
                };
                let records = page.records.unwrap_or_default();
                let is_full = records.len() >= usize::try_from(PAGE).unwrap_or_default();
                let last =
                    records.last().and_then(|record| record.dynamodb.as_ref()?.sequence_number.clone());
                self.hand_over(records, &invoke, &mut invocations).await;
                shard.last = last.or(shard.last.take());
                ended |= page.next_shard_iterator.is_none();
                shard.iterator = page.next_shard_iterator;
                if !is_full {
                    break;
                }
            }
        }
        if ended {
            // What follows a shard is read from its beginning.
            self.find_shards(&mut shards, &ShardIteratorType::TrimHorizon).await?;
        }
        Ok(invocations)
    }

    /// Invokes the function with the records that it is to get. A batch that fails again and again is left out.
    async fn hand_over<Done: Future<Output = Result<Value, String>>>(
        &self,
        records: Vec<Record>,
        invoke: &impl Fn(String) -> Done,
        invocations: &mut Vec<StreamInvocation>,
    ) {
        let records = records
            .into_iter()
            .map(|record| (created_at(&record), in_lambdas_form(record, &self.stream_arn)));
        let is_taken = |record: &Value| {
            let filters = &self.mapping.filters;
            filters.is_empty() || filters.iter().any(|filter| filter.matches(record))
        };
        let records: Vec<_> = records.filter(|(_, record)| is_taken(record)).collect();
        for batch in records.chunks(self.mapping.batch_size) {
            for _attempt in 0..=self.mapping.retries {
                let now = Timestamp::now();
                let young = batch.iter().filter(|(created, _)| is_young(*created, now, self.mapping.max_age));
                let young: Vec<&Value> = young.map(|(_, record)| record).collect();
                if young.is_empty() {
                    break;
                }
                // As in Lambda, a panic ends one invocation and none of the next.
                let event = json!({ "Records": young }).to_string();
                let outcome = AssertUnwindSafe(invoke(event)).catch_unwind().await;
                let outcome = outcome.unwrap_or_else(|_| Err("panicked".to_owned()));
                let is_done = outcome.is_ok();
                invocations.push((self.binary.clone(), outcome));
                if is_done {
                    break;
                }
            }
        }
    }

    /// Adds the shards that are not known yet.
    async fn find_shards(
        &self,
        shards: &mut BTreeMap<String, Shard>,
        start: &ShardIteratorType,
    ) -> Result<(), String> {
        let mut after = None;
        loop {
            let page = self.client.describe_stream().stream_arn(&self.stream_arn);
            let page =
                page.set_exclusive_start_shard_id(after).send().await.map_err(|error| chain(&error))?;
            let Some(stream) = page.stream_description else { return Ok(()) };
            for shard_id in stream.shards.unwrap_or_default().into_iter().filter_map(|shard| shard.shard_id) {
                if let Entry::Vacant(unknown) = shards.entry(shard_id) {
                    let iterator = self.iterator(unknown.key(), start.clone(), None).await?;
                    unknown.insert(Shard { iterator, last: None });
                }
            }
            after = stream.last_evaluated_shard_id;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Where to read on after this record; without one, where the mapping begins.
    async fn iterator_after(&self, shard_id: &str, last: Option<&String>) -> Result<Option<String>, String> {
        match last {
            Some(last) => {
                let after = ShardIteratorType::AfterSequenceNumber;
                self.iterator(shard_id, after, Some(last.clone())).await
            }
            None => self.iterator(shard_id, self.mapping.starting_position.as_str().into(), None).await,
        }
    }

    async fn iterator(
        &self,
        shard_id: &str,
        start: ShardIteratorType,
        sequence_number: Option<String>,
    ) -> Result<Option<String>, String> {
        let request = self.client.get_shard_iterator().stream_arn(&self.stream_arn).shard_id(shard_id);
        let request = request.shard_iterator_type(start).set_sequence_number(sequence_number);
        let found = request.send().await.map_err(|error| chain(&error))?;
        Ok(found.shard_iterator)
    }
}

/// The record as Lambda hands it to functions.
fn in_lambdas_form(record: Record, stream_arn: &str) -> Value {
    let mut change = Map::new();
    if let Some(dynamodb) = record.dynamodb {
        let mut set = |name: &str, value: Option<Value>| {
            value.and_then(|value| change.insert(name.to_owned(), value));
        };
        let created = dynamodb.approximate_creation_date_time;
        set("ApproximateCreationDateTime", created.map(|at| at.as_secs_f64().into()));
        set("Keys", dynamodb.keys.map(item));
        set("NewImage", dynamodb.new_image.map(item));
        set("OldImage", dynamodb.old_image.map(item));
        set("SequenceNumber", dynamodb.sequence_number.map(Value::from));
        set("SizeBytes", dynamodb.size_bytes.map(Value::from));
        set("StreamViewType", dynamodb.stream_view_type.map(|view| view.as_str().into()));
    }
    let mut event = json!({
        "eventID": record.event_id,
        "eventName": record.event_name.map(|name| name.as_str().to_owned()),
        "eventVersion": record.event_version,
        "eventSource": record.event_source,
        "awsRegion": record.aws_region,
        "dynamodb": change,
        "eventSourceARN": stream_arn,
    });
    if let Some(identity) = record.user_identity {
        event["userIdentity"] = json!({ "type": identity.r#type, "principalId": identity.principal_id });
    }
    event
}

/// A row in the form of DynamoDB's JSON.
fn item(item: HashMap<String, AttributeValue>) -> Value {
    serde_json::to_value(serde_dynamo::Item::from(item)).unwrap_or_default()
}

/// When the change was made, as far as it is known: in milliseconds.
fn created_at(record: &Record) -> Option<i64> {
    record.dynamodb.as_ref()?.approximate_creation_date_time?.to_millis().ok()
}

/// Of whole seconds only: a record may be a second younger than it seems.
fn is_young(created: Option<i64>, now: Timestamp, max_age: Duration) -> bool {
    let max_age = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
    created.is_none_or(|created| now.as_millis().saturating_sub(created) <= max_age.saturating_add(1_000))
}

/// The ARN of the table's stream that is in use.
async fn stream_of(client: &Client, table: &str) -> Result<String, String> {
    let streams = client.list_streams().table_name(table).send().await.map_err(|error| chain(&error))?;
    for arn in streams.streams.unwrap_or_default().into_iter().filter_map(|stream| stream.stream_arn) {
        let described = client.describe_stream().stream_arn(&arn).send().await;
        let described = described.map_err(|error| chain(&error))?.stream_description;
        if described.and_then(|stream| stream.stream_status) == Some(StreamStatus::Enabled) {
            return Ok(arn);
        }
    }
    Err(format!("table {table} has no stream; remove it, or the data folder, and it is made anew with one"))
}

/// AWS's streams answer under a name of their own, engines on one's machine under the tables' URL.
fn endpoint_of_streams(url: &str) -> String {
    url.replacen("://dynamodb.", "://streams.dynamodb.", 1)
}

#[cfg(test)]
mod tests {
    use aws_lambda_events::dynamodb::Event;
    use aws_sdk_dynamodbstreams::primitives::{Blob, DateTime};
    use aws_sdk_dynamodbstreams::types::{OperationType, StreamRecord, StreamViewType};

    use super::*;

    #[test]
    fn a_record_has_the_form_in_which_lambda_hands_it_over() {
        let row = HashMap::from([
            ("agent_id".to_owned(), AttributeValue::S("a".to_owned())),
            ("created_at".to_owned(), AttributeValue::N("1767225630000".to_owned())),
            ("digest".to_owned(), AttributeValue::B(Blob::new([0, 255]))),
        ]);
        let keys = HashMap::from([("agent_id".to_owned(), AttributeValue::S("a".to_owned()))]);
        let change = StreamRecord::builder()
            .approximate_creation_date_time(DateTime::from_secs(1_767_225_630))
            .set_keys(Some(keys))
            .set_new_image(Some(row))
            .sequence_number("000000000000000000007")
            .size_bytes(40)
            .stream_view_type(StreamViewType::NewImage)
            .build();
        let record = Record::builder()
            .event_id("e")
            .event_name(OperationType::Insert)
            .event_version("1.1")
            .event_source("aws:dynamodb")
            .aws_region("local")
            .dynamodb(change)
            .build();
        assert_eq!(created_at(&record), Some(1_767_225_630_000));
        let event = in_lambdas_form(record, "arn:stream");
        let expected = json!({
            "eventID": "e",
            "eventName": "INSERT",
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "local",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_767_225_630.0,
                "Keys": { "agent_id": { "S": "a" } },
                "NewImage": {
                    "agent_id": { "S": "a" }, "created_at": { "N": "1767225630000" }, "digest": { "B": "AP8=" },
                },
                "SequenceNumber": "000000000000000000007",
                "SizeBytes": 40,
                "StreamViewType": "NEW_IMAGE",
            },
            "eventSourceARN": "arn:stream",
        });
        assert_eq!(event, expected);
        let read: Event = serde_json::from_value(json!({ "Records": [event] })).expect("Lambda's own type");
        assert_eq!(read.records[0].event_name, "INSERT");
    }

    #[test]
    fn a_record_is_young_until_its_age_is_over() {
        let created = 1_767_225_630_000;
        let young =
            |age| is_young(Some(created), Timestamp::from_millis(created + age), Duration::from_mins(1));
        assert!(young(0) && young(61_000));
        assert!(!young(61_001));
        assert!(is_young(None, Timestamp::from_millis(created), Duration::ZERO), "of unknown age");
    }

    #[test]
    fn awss_streams_have_an_endpoint_of_their_own() {
        let aws = endpoint_of_streams("https://dynamodb.eu-central-1.amazonaws.com");
        assert_eq!(aws, "https://streams.dynamodb.eu-central-1.amazonaws.com");
        assert_eq!(endpoint_of_streams("http://127.0.0.1:8000"), "http://127.0.0.1:8000");
    }
}
