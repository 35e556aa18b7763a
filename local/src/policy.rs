//! IAM's part: what the template's policies do not allow a function is refused before it reaches the database.
//!
//! So every call of the local system is held against the policies that a deployment gives to the function, in the
//! words of DynamoDB's own refusal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{ConfigBag, RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::Response;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::template::{Permission, Resource};

/// What a function may do, what of it it has done, and what it was refused.
#[derive(Debug)]
pub(crate) struct Policy {
    function: String,
    allowed: Vec<(Permission, AtomicBool)>,
    refused: Mutex<Vec<Permission>>,
}

impl Policy {
    /// The policy of the function of this logical id.
    pub(crate) fn new(function: String, permissions: Vec<Permission>) -> Self {
        let allowed = permissions.into_iter().map(|permission| (permission, AtomicBool::new(false)));
        Self { function, allowed: allowed.collect(), refused: Mutex::default() }
    }

    pub(crate) fn function(&self) -> &str {
        &self.function
    }

    /// What no call has needed so far.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &Permission> {
        self.allowed
            .iter()
            .filter(|(_, used)| !used.load(Ordering::Relaxed))
            .map(|(permission, _)| permission)
    }

    /// What calls needed and were not allowed.
    pub(crate) fn refused(&self) -> Vec<Permission> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client that is held to this policy, over the connections of `client`.
    pub(crate) fn client(self: &Arc<Self>, client: &Client) -> Client {
        let connections = self.hold(client, None);
        Client::from_conf(client.config().to_builder().http_client(connections).build())
    }

    /// The connections of `client`, held to this policy. Calls about a stream do not name it: it is given here.
    pub(crate) fn hold(self: &Arc<Self>, client: &Client, stream: Option<Resource>) -> SharedHttpClient {
        let Some(connections) = client.config().http_client() else {
            unreachable!("every client is made with connections of its own")
        };
        SharedHttpClient::new(Held { policy: Arc::clone(self), stream, connections })
    }

    /// Whether this is allowed; notes it either way.
    fn allows(&self, needed: &Permission) -> bool {
        if let Some((_, used)) = self.allowed.iter().find(|(permission, _)| permission == needed) {
            used.store(true, Ordering::Relaxed);
            return true;
        }
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.contains(needed) {
            refused.push(needed.clone());
        }
        false
    }

    /// What the call needs and may not do.
    fn denied(&self, request: &HttpRequest, stream: Option<&Resource>) -> Option<Permission> {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let needed = if let Some(stream) = stream {
            vec![permission(operation, stream.clone())]
        } else {
            let body = request.body().bytes().unwrap_or_default();
            serde_json::from_slice::<Call<'_>>(body).unwrap_or_default().needs(operation)
        };
        needed.into_iter().find(|needed| !self.allows(needed))
    }

    /// DynamoDB's own answer to a call that may not be made.
    fn refusal(&self, denied: &Permission) -> Result<HttpResponse, ConnectorError> {
        let Permission { action, resource } = denied;
        let message = format!(
            "User: arn:aws:sts::000000000000:assumed-role/{} is not authorized to perform: {action} on resource: \
             {resource} because no identity-based policy allows the {action} action",
            self.function
        );
        let body = json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "Message": message });
        let status = 400.try_into().map_err(|error| ConnectorError::other(Box::new(error), None))?;
        Ok(Response::new(status, body.to_string()).map(Into::into))
    }
}

/// As much of a call's body as says which rows it is about.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Call<'a> {
    #[serde(borrow)]
    table_name: Cow<'a, str>,
    #[serde(borrow)]
    index_name: Option<Cow<'a, str>>,
    /// Of a batch, by table.
    #[serde(borrow)]
    request_items: BTreeMap<String, &'a RawValue>,
    /// Of a transaction: `Put`, `Update`, `Delete`, `ConditionCheck` or `Get`, and what it is about.
    #[serde(borrow)]
    transact_items: Vec<BTreeMap<String, Call<'a>>>,
}

impl Call<'_> {
    /// What a policy must allow for this. A transaction needs what each of its parts needs.
    fn needs(&self, operation: &str) -> Vec<Permission> {
        match operation {
            "BatchGetItem" | "BatchWriteItem" if !self.request_items.is_empty() => {
                let tables = self.request_items.keys();
                tables.map(|table| permission(operation, Resource::Table(table.clone()))).collect()
            }
            "TransactGetItems" | "TransactWriteItems" if !self.transact_items.is_empty() => {
                let parts = self.transact_items.iter().flatten();
                parts.map(|(part, of)| permission(&format!("{part}Item"), of.resource())).collect()
            }
            _ => vec![permission(operation, self.resource())],
        }
    }

    fn resource(&self) -> Resource {
        let table = self.table_name.to_string();
        match &self.index_name {
            None => Resource::Table(table),
            Some(index) => Resource::Index { table, index: index.to_string() },
        }
    }
}

fn permission(action: &str, resource: Resource) -> Permission {
    Permission { action: format!("dynamodb:{action}"), resource }
}

/// The connections of a client that is held to a policy.
#[derive(Clone, Debug)]
struct Held<Connections> {
    policy: Arc<Policy>,
    stream: Option<Resource>,
    connections: Connections,
}

impl HttpClient for Held<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let connections = self.connections.http_connector(settings, components);
        let (policy, stream) = (Arc::clone(&self.policy), self.stream.clone());
        SharedHttpConnector::new(Held { policy, stream, connections })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.connections.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.connections.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.connections.connector_metadata()
    }
}

impl HttpConnector for Held<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match self.policy.denied(&request, self.stream.as_ref()) {
            None => self.connections.call(request),
            Some(denied) => HttpConnectorFuture::ready(self.policy.refusal(&denied)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(operation: &str, body: &str) -> Vec<String> {
        let call: Call<'_> = serde_json::from_str(body).expect("a call");
        let needed = call.needs(operation).into_iter().map(|needed| needed.to_string());
        needed.map(|needed| needed.replace("arn:aws:dynamodb:local:000000000000:table/", "")).collect()
    }

    #[test]
    fn a_call_needs_its_action_on_its_table() {
        let call = r#"{"TableName": "A", "Key": {"id": {"S": "\u00e9"}}, "ConsistentRead": true}"#;
        assert_eq!(needs("GetItem", call), ["dynamodb:GetItem on A"]);
        assert_eq!(needs("Scan", r#"{"TableName": "A", "Segment": 0}"#), ["dynamodb:Scan on A"]);
    }

    #[test]
    fn a_query_of_an_index_needs_the_index() {
        let call = r#"{"TableName": "A", "IndexName": "by_age"}"#;
        assert_eq!(needs("Query", call), ["dynamodb:Query on A/index/by_age"]);
    }

    #[test]
    fn a_batch_needs_its_action_on_every_table() {
        let call = r#"{"RequestItems": {"A": [{"PutRequest": {"Item": {}}}], "B": []}}"#;
        let expected = ["dynamodb:BatchWriteItem on A", "dynamodb:BatchWriteItem on B"];
        assert_eq!(needs("BatchWriteItem", call), expected);
    }

    #[test]
    fn a_transaction_needs_what_its_parts_need() {
        let call = r#"{"ClientRequestToken": "x", "TransactItems": [
            {"Put": {"TableName": "A", "Item": {}}}, {"Update": {"TableName": "B"}},
            {"Delete": {"TableName": "B"}}, {"ConditionCheck": {"TableName": "C"}}]}"#;
        let expected = ["PutItem on A", "UpdateItem on B", "DeleteItem on B", "ConditionCheckItem on C"];
        assert_eq!(needs("TransactWriteItems", call), expected.map(|it| format!("dynamodb:{it}")));
        let call = r#"{"TransactItems": [{"Get": {"TableName": "A", "Key": {}}}]}"#;
        assert_eq!(needs("TransactGetItems", call), ["dynamodb:GetItem on A"]);
    }

    #[test]
    fn what_is_about_no_rows_is_allowed_by_nothing() {
        assert_eq!(needs("TransactWriteItems", "{}"), ["dynamodb:TransactWriteItems on "]);
        assert_eq!(needs("ExecuteStatement", r#"{"Statement": "x"}"#), ["dynamodb:ExecuteStatement on "]);
        assert_eq!(needs("DeleteTable", r#"{"TableName": "A"}"#), ["dynamodb:DeleteTable on A"]);
    }
}
