//! DynamoDB's own wire, for what is put into the engine past the system.

use serde_json::{Map, Value, json};

/// A client of an engine that checks no signatures.
#[derive(Clone)]
pub struct DynamoDb {
    url: String,
    http: reqwest::Client,
}

impl DynamoDb {
    pub fn at(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self { url: url.to_owned(), http }
    }

    /// Makes a call, which must succeed.
    pub async fn call(&self, operation: &str, input: &Value) -> Value {
        let request = self
            .http
            .post(&self.url)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
            .header("x-amz-date", "20260101T000000Z")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/dynamodb/aws4_request, \
                 SignedHeaders=host, Signature=any",
            )
            .body(input.to_string());
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert!(status.is_success(), "{operation}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Every row of a table.
    pub async fn scan(&self, table: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut input = json!({ "TableName": table });
        loop {
            let mut page = self.call("Scan", &input).await;
            rows.append(page["Items"].as_array_mut().expect("rows"));
            match page["LastEvaluatedKey"].take() {
                Value::Null => return rows,
                last => input["ExclusiveStartKey"] = last,
            }
        }
    }

    /// Puts rows into a table, 25 at a time.
    pub async fn put(&self, table: &str, rows: &[Value]) {
        for rows in rows.chunks(25) {
            let puts: Vec<Value> = rows.iter().map(|row| json!({ "PutRequest": { "Item": row } })).collect();
            let tables = Map::from_iter([(table.to_owned(), Value::from(puts))]);
            self.call("BatchWriteItem", &json!({ "RequestItems": tables })).await;
        }
    }
}
