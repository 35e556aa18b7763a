//! The store: DynamoDB through the AWS SDK. One file per table or transition, one `impl Store` each.
//!
//! Every state change is one conditional write on the state that was read. A refused condition is an outcome,
//! not an error; so is a transaction conflict, which means that somebody else was there first.

mod agents;
mod boots;
mod changes;
mod channels;
mod check_in;
mod deliveries;
mod endpoint;
mod events;
mod expression;
mod fleet;
mod listing;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod row_size;
mod silences;
mod sweep;
mod telling;
mod tokens;
mod windows;

use std::collections::HashMap;
use std::error::Error;
use std::iter::successors;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::channels::Taken;
pub use self::deliveries::{Claim, DeliveryPage, Due};
pub use self::endpoint::{Endpoint, Timeouts, endpoint_url};
pub use self::listing::{Page, is_cursor};
pub use self::silences::Silenced;
pub use self::sweep::{Sighting, Sweep, SweepReport, SweepSettings};
pub use self::telling::{Control, Gone, Mark, Telling};

use crate::config::{Config, Given, Tables};
use crate::domain::event::{Actor, Event, EventIds, EventType, expiry};
use crate::domain::failure::StoreError;
use crate::time::Timestamp;

/// A row as DynamoDB gives it.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// How long a cold start waits for its connection. A database that is away is the first request's to report.
const CONNECTING_TIME: Duration = Duration::from_secs(1);

/// How often a change starts again after it lost its first race, before the caller is asked to come back.
const RACES: u32 = 3;

/// The longest pause before a change starts again. Each one takes a random part of it.
const RACE_JITTER: Duration = Duration::from_millis(50);

/// The store. Methods are named for the transition they make.
#[derive(Debug)]
pub struct Store {
    client: Client,
    tables: Tables,
    default_limit: Given<u32>,
    event_retention: Given<Duration>,
    system_event_retention: Given<Duration>,
    pending_retention: Given<Duration>,
    alert_retention: Given<Duration>,
    forget_after: Given<Duration>,
    event_ids: EventIds,
}

impl Store {
    /// A store over `client`, with the tables and retentions of `config`.
    #[must_use]
    pub fn new(client: Client, config: &Config, event_ids: EventIds) -> Self {
        Self {
            client,
            tables: config.tables.clone(),
            default_limit: config.rate_limit.clone(),
            event_retention: config.event_retention.clone(),
            system_event_retention: config.system_event_retention.clone(),
            pending_retention: config.pending_retention.clone(),
            alert_retention: config.alert_retention.clone(),
            forget_after: config.forget_after.clone(),
            event_ids,
        }
    }

    /// Asks DynamoDB for a row that is not there, in the first table that the function uses.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let Some((table, key)) = self.tables.any() else { return Ok(()) };
        let request = self.client.get_item().table_name(table).key(key, string("ping"));
        request.send().await.map(|_| ()).map_err(|error| failure(&error))
    }

    /// Makes the connection that the first request needs, by [`Store::ping`]. Lambda gives a starting function a whole
    /// core, and afterwards a fraction by its memory: a TLS handshake then takes many times as long.
    ///
    /// Whether the read is answered, or allowed to this function at all, does not matter.
    pub async fn connect(&self) {
        let _answered = tokio::time::timeout(CONNECTING_TIME, self.ping()).await;
    }

    /// An event of the system's own.
    fn record(
        &self,
        partition: impl ToString,
        event_type: EventType,
        actor: Actor,
        payload: &Value,
        now: Timestamp,
    ) -> Event {
        Event {
            partition: partition.to_string(),
            event_id: self.event_ids.next(now),
            event_type,
            actor,
            payload: payload.to_string(),
            created_at: now,
            expires_at: expiry(now, *self.system_event_retention.get()),
        }
    }

    /// The write of an event, as part of the transaction of its change.
    fn put_event(&self, event: &Event) -> Result<TransactWriteItem, StoreError> {
        let put = Put::builder()
            .table_name(self.tables.events.get())
            .set_item(Some(to_item(event)?))
            .condition_expression("attribute_not_exists(event_id)");
        Ok(TransactWriteItem::builder().put(put.build().map_err(broken)?).build())
    }
}

/// The outcome of one conditional write.
enum Write {
    /// It happened; the row as it is now.
    Applied(Item),
    /// The condition was not met; the row as it is, if there is one.
    Refused(Option<Item>),
    /// A transaction on the same row was under way.
    Conflicted,
}

/// Sends a conditional update, asking for the row either way: neither answer costs anything.
async fn update(request: UpdateItemFluentBuilder) -> Result<Write, StoreError> {
    let sent = request
        .return_values(ReturnValue::AllNew)
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .send()
        .await;
    match sent {
        Ok(output) => Ok(Write::Applied(output.attributes.unwrap_or_default())),
        Err(SdkError::ServiceError(refused)) => match refused.into_err() {
            UpdateItemError::ConditionalCheckFailedException(failed) => Ok(Write::Refused(failed.item)),
            UpdateItemError::TransactionConflictException(_) => Ok(Write::Conflicted),
            error => Err(service_failure(&error)),
        },
        Err(error) => Err(failure(&error)),
    }
}

/// The outcome of one transaction.
enum Transaction {
    /// All of it happened.
    Applied,
    /// Nothing happened: the condition of the write at this place was not met. The row as it is, if there is one.
    Refused(usize, Option<Item>),
    /// Nothing happened: another transaction or write on one of the rows was under way.
    Conflicted,
}

/// Sends a transaction. The SDK's idempotency token makes a resent one count once.
async fn transact(client: &Client, writes: Vec<TransactWriteItem>) -> Result<Transaction, StoreError> {
    let sent = client.transact_write_items().set_transact_items(Some(writes)).send().await;
    let error = match sent {
        Ok(_) => return Ok(Transaction::Applied),
        Err(SdkError::ServiceError(refused)) => refused.into_err(),
        Err(error) => return Err(failure(&error)),
    };
    match error {
        TransactWriteItemsError::TransactionCanceledException(canceled) => {
            let reasons = canceled.cancellation_reasons.unwrap_or_default();
            let codes: Vec<String> = reasons.iter().filter_map(|reason| reason.code.clone()).collect();
            let refused = |code: &str| codes.iter().position(|it| it == code);
            if let Some(place) = refused("ConditionalCheckFailed") {
                Ok(Transaction::Refused(place, reasons.into_iter().nth(place).and_then(|reason| reason.item)))
            } else if refused("TransactionConflict").is_some() {
                Ok(Transaction::Conflicted)
            } else if refused("ThrottlingError")
                .or_else(|| refused("ProvisionedThroughputExceeded"))
                .is_some()
            {
                Err(StoreError::Unavailable(format!("transaction throttled: {codes:?}")))
            } else {
                Err(StoreError::Broken(format!("transaction canceled: {codes:?}")))
            }
        }
        TransactWriteItemsError::TransactionInProgressException(_) => Ok(Transaction::Conflicted),
        error => Err(service_failure(&error)),
    }
}

/// Counts the races that a change has lost: it starts again after each, and pauses before it does.
#[derive(Default)]
struct Races {
    tried: u32,
}

impl Races {
    /// Whether to try once more; after a lost race only when a random part of [`RACE_JITTER`] has passed.
    async fn again(&mut self) -> bool {
        if self.tried > 0 && self.tried <= RACES {
            tokio::time::sleep(RACE_JITTER.mul_f64(rand::random())).await;
        }
        self.tried += 1;
        self.tried <= RACES + 1
    }
}

/// Errors of the service that pass by themselves. The SDK has already tried again.
const PASSING: [&str; 7] = [
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
];

/// An error that DynamoDB answered. Only code and message are kept: an error's item holds digests.
fn service_failure(error: &impl ProvideErrorMetadata) -> StoreError {
    let (code, message) = (error.code().unwrap_or("no code"), error.message().unwrap_or("no message"));
    let cause = format!("{code}: {message}");
    if PASSING.contains(&code) { StoreError::Unavailable(cause) } else { StoreError::Broken(cause) }
}

/// An error of any operation, from DynamoDB or from the way there.
fn failure<E, R>(error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    match error {
        SdkError::ServiceError(refused) => service_failure(refused.err()),
        SdkError::ConstructionFailure(_) => StoreError::Broken(chain(error)),
        _ => StoreError::Unavailable(chain(error)),
    }
}

/// An error and what caused it, in words. Their debug forms would hold whole answers, and rows in them.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A request or a row that this program itself got wrong.
fn broken(error: impl std::error::Error) -> StoreError {
    StoreError::Broken(error.to_string())
}

fn to_item<T: Serialize>(row: &T) -> Result<Item, StoreError> {
    serde_dynamo::aws_sdk_dynamodb_1::to_item(row).map_err(broken)
}

fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, StoreError> {
    serde_dynamo::aws_sdk_dynamodb_1::from_item(item).map_err(broken)
}

fn string(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn moment(value: Timestamp) -> AttributeValue {
    number(value.as_millis())
}

fn binary(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}
