//! The least that a durable heartbeat can be: a function that sends one `UpdateItem` through the same SDK, for one
//! agent, and neither reads the request nor authenticates, limits or answers anything.

use lambda_http::{Body, Error, Request, Response, service_fn};
use shared::config::env;
use shared::store::Endpoint;
use shared::time::Timestamp;

use aws_sdk_dynamodb::types::AttributeValue;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let dynamodb = Endpoint::from_env()?.client();
    let table = env("AGENTS_TABLE").ok_or("AGENTS_TABLE is not set")?;
    let agent_id = env("AGENT_ID").ok_or("AGENT_ID is not set")?;
    lambda_http::run(service_fn(async |_: Request| {
        dynamodb
            .update_item()
            .table_name(&table)
            .key("agent_id", AttributeValue::S(agent_id.clone()))
            .update_expression("SET last_seen_at = :now")
            .expression_attribute_values(":now", AttributeValue::N(Timestamp::now().as_millis().to_string()))
            .send()
            .await?;
        Ok::<_, Error>(Response::new(Body::Empty))
    }))
    .await
}
