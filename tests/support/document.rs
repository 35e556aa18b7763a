//! The document of the API, which judges every exchange of the tests.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Registry, Validator};
use reqwest::Method;
use reqwest::header::HeaderMap;
use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Reply;

/// The document as it is written.
pub const YAML: &str = include_str!("../../docs/openapi.yaml");

/// The document as the tests read it.
pub static DOCUMENT: LazyLock<Document> = LazyLock::new(Document::read);

/// By which its schemas find each other.
const URI: &str = "urn:rollcall";

/// What the transport and CORS add to answers; every other header is the API's, and documented.
const TRANSPORT: [&str; 4] = ["content-type", "content-length", "date", "vary"];

/// The document, with the validators that were needed so far.
pub struct Document {
    pub value: Value,
    registry: Registry<'static>,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// An operation, by its place in the document.
struct Operation {
    place: String,
    /// What stands in the path in place of its parameters.
    parameters: Vec<(String, String)>,
}

fn from_yaml(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(value)) => value.as_ref().into(),
        Yaml::Sequence(items) => items.iter().map(from_yaml).collect(),
        Yaml::Mapping(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.as_str().expect("a name").to_owned(), from_yaml(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => panic!("the document needs no {other:?}"),
    }
}

/// JSON, if this reader can hold it: a payload is kept and answered as it was sent, also with numbers out of range.
fn read(text: &[u8]) -> Result<Option<Value>, String> {
    serde_json::from_slice::<&RawValue>(text).map_err(|error| error.to_string())?;
    Ok(serde_json::from_slice(text).ok())
}

/// A part of a path as a JSON pointer has it.
fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

/// A path's parameters, if it has the form of this route.
fn parameters(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let (expected, parts) = (template.split('/'), path.split('/'));
    if expected.clone().count() != parts.clone().count() {
        return None;
    }
    let mut parameters = Vec::new();
    for (expected, part) in expected.zip(parts) {
        match expected.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) if !part.is_empty() => parameters.push((name.to_owned(), part.to_owned())),
            _ if expected == part => {}
            _ => return None,
        }
    }
    Some(parameters)
}

impl Document {
    fn read() -> Self {
        let value = from_yaml(&Yaml::load_from_str(YAML).expect("YAML")[0]);
        let registry = Registry::new().add(URI, Draft::Draft202012.create_resource(value.clone()));
        let registry =
            registry.and_then(jsonschema::RegistryBuilder::prepare).expect("references that lead somewhere");
        Self { value, registry, validators: Mutex::default() }
    }

    /// What is at this place, or where it refers to, and that place.
    fn at(&self, place: &str) -> Option<(&Value, String)> {
        let found = self.value.pointer(place)?;
        match found["$ref"].as_str() {
            Some(reference) => self.at(reference.strip_prefix('#').expect("a reference within the document")),
            None => Some((found, place.to_owned())),
        }
    }

    /// Why a value is not by the schema at this place.
    fn by_schema(&self, place: &str, value: &Value) -> Result<(), String> {
        let mut validators = self.validators.lock().expect("no test panics here");
        let validator = validators.entry(place.to_owned()).or_insert_with(|| {
            let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
            let schema = json!({ "$ref": format!("{URI}#{}", percent_encoded(place)) });
            Arc::new(options.with_registry(&self.registry).build(&schema).expect("a schema"))
        });
        let validator = Arc::clone(validator);
        drop(validators);
        let errors: Vec<_> =
            validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// The operation that a request is for; a path by name goes before one by a parameter, as at API Gateway.
    fn operation(&self, method: &Method, path: &str) -> Option<Operation> {
        let method = method.as_str().to_lowercase();
        let paths = self.value["paths"].as_object().expect("paths");
        let found = paths.iter().filter(|(_, item)| item.get(&method).is_some());
        let found = found.filter_map(|(template, _)| Some((template, parameters(template, path)?)));
        let (template, parameters) = found.min_by_key(|(_, parameters)| parameters.len())?;
        Some(Operation { place: format!("/paths/{}/{method}", escaped(template)), parameters })
    }

    /// What of an answer is not documented.
    pub fn judge_answer(&self, method: &Method, target: &str, reply: &Reply) -> Result<(), String> {
        let path = target.split('?').next().unwrap_or_default();
        // Preflights are answered by API Gateway's CORS.
        if method == Method::OPTIONS {
            return Ok(());
        }
        let Some(operation) = self.operation(method, path) else {
            return self.judge_refusal_of_the_unknown(method, path, reply);
        };
        let place = format!("{}/responses/{}", operation.place, reply.status);
        let (response, place) =
            self.at(&place).ok_or_else(|| format!("{} is not documented", reply.status))?;
        self.judge_headers(response, &place, reply)?;
        let Some(contents) = response["content"].as_object() else {
            return if reply.text.is_empty() { Ok(()) } else { Err("no body is documented".to_owned()) };
        };
        let content_type = reply.header("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default();
        if !contents.contains_key(media_type) {
            return Err(format!("content type {content_type:?} is not documented"));
        }
        let schema = format!("{place}/content/{}/schema", escaped(media_type));
        if media_type == "application/json" {
            let body = read(reply.text.as_bytes())?;
            body.map_or(Ok(()), |body| self.by_schema(&schema, &body))
        } else {
            self.by_schema(&schema, &reply.text.as_str().into())
        }
    }

    /// Documented headers are there, and no others.
    fn judge_headers(&self, response: &Value, place: &str, reply: &Reply) -> Result<(), String> {
        let none = Map::new();
        let documented = response["headers"].as_object().unwrap_or(&none);
        for name in documented.keys() {
            let (header, place) = self.at(&format!("{place}/headers/{}", escaped(name))).expect("a header");
            match reply.header(name) {
                Some(value) => self
                    .by_schema(&format!("{place}/schema"), &value.into())
                    .map_err(|error| format!("header {name}: {error}"))?,
                None if header["required"] == true => return Err(format!("header {name} is missing")),
                None => {}
            }
        }
        let is_known = |name: &str| {
            TRANSPORT.contains(&name)
                || name.starts_with("access-control-")
                || documented.keys().any(|documented| documented.eq_ignore_ascii_case(name))
        };
        match reply.headers.keys().find(|name| !is_known(name.as_str())) {
            Some(name) => Err(format!("header {name} is not documented")),
            None => Ok(()),
        }
    }

    /// What no operation takes is refused in the contract of its path.
    fn judge_refusal_of_the_unknown(&self, method: &Method, path: &str, reply: &Reply) -> Result<(), String> {
        if !matches!(reply.status, 308 | 404 | 405) {
            return Err(format!("no operation is documented, and yet it is {}", reply.status));
        }
        if method == Method::HEAD {
            return Ok(());
        }
        let is_in_v1 = path.starts_with("/api/v1/") || path == "/api/v1";
        let name = if is_in_v1 { "Refusal" } else { "EnvelopeRefusal" };
        let body = serde_json::from_str(&reply.text).map_err(|error| error.to_string())?;
        self.by_schema(&format!("/components/schemas/{name}"), &body)
    }

    /// What of a message to a webhook is not documented.
    pub fn judge_message(&self, headers: &HeaderMap, body: &str) -> Result<(), String> {
        let body: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let name = body["type"].as_str().unwrap_or_default();
        let webhook = format!("/webhooks/{}/post", escaped(name));
        for index in 0.. {
            let Some((parameter, place)) = self.at(&format!("{webhook}/parameters/{index}")) else { break };
            let name = parameter["name"].as_str().expect("a name");
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            let value = value.ok_or_else(|| format!("header {name} is missing"))?;
            self.by_schema(&format!("{place}/schema"), &value.into())
                .map_err(|error| format!("header {name}: {error}"))?;
        }
        let schema = format!("{webhook}/requestBody/content/application~1json/schema");
        if self.value.pointer(&schema).is_none() {
            return Err(format!("{name:?} is not documented"));
        }
        self.by_schema(&schema, &body)
    }

    /// What of a request that was granted is not documented.
    pub fn judge_request(&self, method: &Method, target: &str, body: &[u8]) -> Result<(), String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let Some(operation) = self.operation(method, path) else { return Ok(()) };
        let place = &operation.place;
        for index in 0.. {
            let Some((parameter, place)) = self.at(&format!("{place}/parameters/{index}")) else { break };
            let name = parameter["name"].as_str().expect("a name");
            let given = match parameter["in"].as_str() {
                Some("path") => operation
                    .parameters
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone()),
                Some("query") => {
                    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                    let mut given =
                        pairs.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
                    given.next_back()
                }
                _ => continue,
            };
            let Some(given) = given else { continue };
            let schema = format!("{place}/schema");
            let is_number = self.at(&schema).is_some_and(|(schema, _)| schema["type"] == "integer");
            let value = given.parse::<i64>().ok().filter(|_| is_number);
            let value = value.map_or_else(|| given.as_str().into(), Value::from);
            self.by_schema(&schema, &value).map_err(|error| format!("{name}={given}: {error}"))?;
        }
        // Routes that read no body take any.
        let Some((documented, place)) = self.at(&format!("{place}/requestBody")) else { return Ok(()) };
        if body.is_empty() {
            let is_required = documented["required"] == true;
            return if is_required { Err("a body is required".to_owned()) } else { Ok(()) };
        }
        let schema = format!("{place}/content/application~1json/schema");
        // A heartbeat that takes any body takes one that is not JSON as well.
        if self.value.pointer(&schema) == Some(&json!({ "$ref": "#/components/schemas/AnyBody" })) {
            return Ok(());
        }
        read(body)?.map_or(Ok(()), |value| self.by_schema(&schema, &value))
    }
}

/// A JSON pointer in a fragment: braces are none of a URI's characters.
fn percent_encoded(place: &str) -> String {
    place.replace('{', "%7B").replace('}', "%7D")
}
