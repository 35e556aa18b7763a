//! `template.yaml` as `cargo run` executes it: its tables, functions with triggers and policies, and CORS.
//!
//! What is understood is enumerated: resource types and their properties in `resources`, statements in `policies`,
//! words of filters in `filter`, intrinsic functions in `document`, parameter types in `parameters`. Anything else is
//! one error that names the line, so that what runs here is what a deployment runs, and never a part of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

mod document;
mod filter;
mod parameters;
mod policies;
mod resources;
mod scope;
#[cfg(test)]
mod tests;

pub use filter::Filter;

use document::{Entry, Fields, Node};
use resources::FunctionDefaults;
use scope::{Kind, Scope};

/// The part of a template that is executed on this machine, with all parameters and functions resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// In the order of the template.
    pub tables: Vec<Table>,
    /// In the order of the template; no two have the same route.
    pub functions: Vec<Function>,
    /// What the API answers to browsers, if it is configured.
    pub cors: Option<Cors>,
}

/// Where a template is executed.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Makes a table's name in the database from its logical id.
    pub table_name: &'a dyn Fn(&str) -> String,
    /// Where the API answers.
    pub api_url: &'a str,
}

/// A table. Types and schemas are in the words of the database's own `CreateTable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's name within the template.
    pub logical_id: String,
    /// The table's name in the database, which is also what functions find in their environment.
    pub name: String,
    /// The attributes that keys are made of.
    pub attributes: Vec<Attribute>,
    /// The table's key.
    pub key_schema: Vec<KeyElement>,
    /// Indexes, if there are any.
    pub global_secondary_indexes: Vec<SecondaryIndex>,
    /// The attribute that holds the second at which a row expires.
    pub ttl_attribute: Option<String>,
    /// What the table's stream shows of a change, if it has a stream.
    pub stream_view_type: Option<String>,
}

/// An attribute that a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name in the rows.
    pub name: String,
    /// `S`, `N` or `B`.
    pub attribute_type: String,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyElement {
    /// The attribute's name; it is among the table's attributes.
    pub attribute: String,
    /// `HASH` or `RANGE`.
    pub key_type: String,
}

/// A global secondary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondaryIndex {
    /// The index's name.
    pub name: String,
    /// The index's key.
    pub key_schema: Vec<KeyElement>,
    /// `ALL`, `KEYS_ONLY` or `INCLUDE`.
    pub projection_type: String,
    /// What `INCLUDE` includes.
    pub non_key_attributes: Vec<String>,
}

/// A Lambda function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The function's name within the template.
    pub logical_id: String,
    /// The Cargo binary that it is built from.
    pub binary: String,
    /// Its environment, that of `Globals` included.
    pub environment: BTreeMap<String, String>,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// What invokes it.
    pub triggers: Vec<Trigger>,
    /// What its policies allow it. Everything else is refused.
    pub permissions: Vec<Permission>,
}

impl Function {
    /// The routes that it answers.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.triggers.iter().filter_map(|trigger| match trigger {
            Trigger::HttpApi(route) => Some(route),
            Trigger::Schedule(_) | Trigger::Stream(_) => None,
        })
    }

    /// The schedules that it runs on.
    pub fn schedules(&self) -> impl Iterator<Item = &Schedule> {
        self.triggers.iter().filter_map(|trigger| match trigger {
            Trigger::Schedule(schedule) => Some(schedule),
            Trigger::HttpApi(_) | Trigger::Stream(_) => None,
        })
    }

    /// The streams whose records it gets.
    pub fn streams(&self) -> impl Iterator<Item = &StreamMapping> {
        self.triggers.iter().filter_map(|trigger| match trigger {
            Trigger::Stream(stream) => Some(stream),
            Trigger::HttpApi(_) | Trigger::Schedule(_) => None,
        })
    }
}

/// What invokes a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Requests to a route.
    HttpApi(Route),
    /// The clock.
    Schedule(Schedule),
    /// Changes of a table.
    Stream(StreamMapping),
}

/// One action on one resource that a function's policies allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// As IAM writes it: `dynamodb:GetItem`.
    pub action: String,
    /// What it may be done to.
    pub resource: Resource,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.action, self.resource)
    }
}

/// What an action is done to. Displayed as the ARN that it has on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A table, by its name in the database.
    Table(String),
    /// An index of a table: a right to the table is none to its indexes.
    Index {
        /// The table's name in the database.
        table: String,
        /// The index's name.
        index: String,
    },
    /// The stream of a table's changes, by the table's name in the database.
    Stream(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => write!(f, "{TABLE_ARN}{table}"),
            Self::Index { table, index } => write!(f, "{TABLE_ARN}{table}/index/{index}"),
            Self::Stream(table) => write!(f, "{TABLE_ARN}{table}/stream/latest"),
        }
    }
}

/// What the ARNs of this machine's tables begin with.
const TABLE_ARN: &str = "arn:aws:dynamodb:local:000000000000:table/";

/// What a function answers. Displayed as API Gateway writes it: `POST /api/agents/register`, or `$default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// Everything that no other route matches.
    Default,
    /// One method of one path.
    Exact {
        /// In capitals.
        method: String,
        /// Segments in braces are variables: `/api/v1/agents/{agent_id}`.
        path: String,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("$default"),
            Self::Exact { method, path } => write!(f, "{method} {path}"),
        }
    }
}

/// A regular invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The time between two invocations.
    pub every: Duration,
    /// The event that the function gets, as JSON.
    pub input: String,
}

/// How a function gets the records of a table's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMapping {
    /// The table's name in the database.
    pub table: String,
    /// How many records an invocation gets at most.
    pub batch_size: usize,
    /// Where it begins to read: `LATEST` or `TRIM_HORIZON`.
    pub starting_position: String,
    /// Records that none of these takes are left out. Without any, all are taken.
    pub filters: Vec<Filter>,
    /// How often a batch is handed over again after a failure.
    pub retries: usize,
    /// Records that are older are left out.
    pub max_age: Duration,
}

/// What the API answers to browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may call, or `*`.
    pub allow_origins: Vec<String>,
    /// Methods that they may use.
    pub allow_methods: Vec<String>,
    /// Headers that they may send.
    pub allow_headers: Vec<String>,
    /// Headers that they may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember this.
    pub max_age: Duration,
}

/// Why a template cannot be executed here: `template.yaml:123: …`.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct TemplateError {
    file: String,
    line: usize,
    message: String,
}

impl Template {
    /// Reads a template with these parameters, as it is executed in this place; `file_name` is what errors call the file.
    ///
    /// # Errors
    /// For anything that is not understood, and for parameters that are missing, unknown or out of bounds.
    pub fn read(
        file_name: &str,
        text: &str,
        parameters: &BTreeMap<String, String>,
        place: Place<'_>,
    ) -> Result<Self, TemplateError> {
        read(text, parameters, place).map_err(|Problem { line, message }| TemplateError {
            file: file_name.to_owned(),
            line,
            message,
        })
    }
}

const SECTIONS: &[&str] = &[
    "AWSTemplateFormatVersion",
    "Conditions",
    "Description",
    "Globals",
    "Outputs",
    "Parameters",
    "Resources",
    "Rules",
    "Transform",
];

fn read(text: &str, given: &BTreeMap<String, String>, place: Place<'_>) -> Result<Template, Problem> {
    let document = Node::parse(text)?;
    let sections = document.fields("a template", &[SECTIONS])?;
    sections.require("Transform")?.one_of(&["AWS::Serverless-2016-10-31"])?;
    let entries = |section| sections.get(section).map_or(Ok(&[][..]), Node::entries);

    let section = sections.get("Parameters").map_or(document.line, |node| node.line);
    let parameters = parameters::read(entries("Parameters")?, given, section)?;
    let mut scope = Scope::new(parameters, entries("Conditions")?, place);
    for rule in entries("Rules")? {
        scope.assert(rule)?;
    }

    let mut resources = Vec::new();
    for Entry { name, line, node } in sections.require("Resources")?.entries()? {
        let attributes = node.fields("a resource", &[resources::ATTRIBUTES])?;
        let kind = resources::kind(attributes.require("Type")?)?;
        if attributes.get("Condition").map_or(Ok(true), |condition| scope.holds(condition))? {
            scope.add_resource(name, kind.clone());
            resources.push(Declared { logical_id: name, line: *line, kind, attributes });
        }
    }

    let tables = resources.iter().filter(|resource| matches!(resource.kind, Kind::Table));
    let tables = tables.map(|table| {
        let id = table.logical_id;
        resources::table(&scope, id, (place.table_name)(id), table.attributes.require("Properties")?)
    });
    let tables = tables.collect::<Result<Vec<_>, _>>()?;

    let defaults = FunctionDefaults::read(&scope, sections.get("Globals"))?;
    let mut functions: Vec<Function> = Vec::new();
    for resource in resources.iter().filter(|resource| matches!(resource.kind, Kind::Function)) {
        let attributes = &resource.attributes;
        let (metadata, properties) = (attributes.require("Metadata")?, attributes.require("Properties")?);
        let function =
            resources::function(&scope, &defaults, &tables, resource.logical_id, metadata, properties)?;
        let routes = || functions.iter().flat_map(Function::routes);
        if let Some(route) = function.routes().find(|route| routes().any(|taken| taken == *route)) {
            let message = format!("`{}` has a route that another function has: {route}", function.logical_id);
            return Err(Problem::new(resource.line, message));
        }
        functions.push(function);
    }

    for mapping in resources.iter().filter(|resource| matches!(resource.kind, Kind::Mapping)) {
        resources::mapping(&scope, mapping.attributes.require("Properties")?, &tables, &mut functions)?;
    }

    let mut cors = None;
    let mut apis = resources.iter().filter(|resource| matches!(resource.kind, Kind::Api));
    if let Some(api) = apis.next() {
        let routes: Vec<&Route> = functions.iter().flat_map(Function::routes).collect();
        cors = resources::api(&scope, api.attributes.require("Properties")?, &routes)?;
    }
    if let Some(second) = apis.next() {
        return Err(Problem::new(second.line, "a second HttpApi is not understood"));
    }
    Ok(Template { tables, functions, cors })
}

/// A resource whose condition is true.
struct Declared<'a> {
    logical_id: &'a str,
    line: usize,
    kind: Kind,
    attributes: Fields<'a>,
}

/// What is wrong, and on which line.
#[derive(Debug)]
struct Problem {
    line: usize,
    message: String,
}

impl Problem {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }

    fn not_understood(line: usize, what: &str) -> Self {
        Self::new(line, format!("{what} is not understood"))
    }
}
