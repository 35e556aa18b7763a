//! The resources that exist on this machine: tables, functions and the API.
//!
//! Of each, the properties that are executed here are listed, and those that only a deployment needs. Any
//! other is an error, so that none is ever ignored by mistake.

use std::collections::BTreeMap;
use std::time::Duration;

use super::document::{Fields, Node};
use super::policies::{self, permissions};
use super::scope::{Kind, Scope};
use super::{
    Attribute, Cors, Filter, Function, KeyElement, Permission, Problem, Resource, Route, Schedule,
    SecondaryIndex, StreamMapping, Table, Trigger,
};

/// Types that only a deployment needs.
const NOT_LOCAL: &[&str] = &[
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::DomainName",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::CloudWatch::Alarm",
    "AWS::KMS::Key",
    "AWS::Logs::LogGroup",
    "AWS::Logs::MetricFilter",
    "AWS::SNS::Topic",
];

/// What a resource of this type is here.
pub(super) fn kind(resource_type: &Node) -> Result<Kind, Problem> {
    match resource_type.text()? {
        "AWS::DynamoDB::Table" => Ok(Kind::Table),
        "AWS::Lambda::EventSourceMapping" => Ok(Kind::Mapping),
        "AWS::Serverless::Function" => Ok(Kind::Function),
        "AWS::Serverless::HttpApi" => Ok(Kind::Api),
        other if NOT_LOCAL.contains(&other) => Ok(Kind::NotLocal(other.to_owned())),
        other => Err(Problem::not_understood(resource_type.line, &format!("the resource type `{other}`"))),
    }
}

/// The attributes of a resource beside its properties.
pub(super) const ATTRIBUTES: &[&str] =
    &["Type", "Properties", "Metadata", "Condition", "DependsOn", "DeletionPolicy", "UpdateReplacePolicy"];

// ---- Tables ----

const TABLE: &[&str] = &[
    "AttributeDefinitions",
    "KeySchema",
    "GlobalSecondaryIndexes",
    "TimeToLiveSpecification",
    "StreamSpecification",
];
const TABLE_DEPLOYED: &[&str] = &[
    "BillingMode",
    "DeletionProtectionEnabled",
    "PointInTimeRecoverySpecification",
    "ProvisionedThroughput",
    "SSESpecification",
    "Tags",
];

const INDEX: &[&str] = &["IndexName", "KeySchema", "Projection"];
const INDEX_DEPLOYED: &[&str] = &["ProvisionedThroughput"];

pub(super) fn table(
    scope: &Scope<'_>,
    logical_id: &str,
    name: String,
    node: &Node,
) -> Result<Table, Problem> {
    let of = "AWS::DynamoDB::Table";
    let properties = node.fields(of, &[TABLE, TABLE_DEPLOYED])?;

    let attributes = scope.value(properties.require("AttributeDefinitions")?)?;
    let attributes = attributes.list()?.iter().map(attribute).collect::<Result<Vec<_>, _>>()?;
    let key_schema = key_schema(&scope.value(properties.require("KeySchema")?)?, &attributes)?;
    let indexes = match resolved(scope, &properties, "GlobalSecondaryIndexes")? {
        Some(indexes) => indexes
            .list()?
            .iter()
            .map(|index| secondary_index(index, &attributes))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let time_to_live = resolved(scope, &properties, "TimeToLiveSpecification")?;
    let stream = resolved(scope, &properties, "StreamSpecification")?;
    Ok(Table {
        logical_id: logical_id.to_owned(),
        name,
        attributes,
        key_schema,
        global_secondary_indexes: indexes,
        ttl_attribute: time_to_live.as_ref().map(ttl_attribute).transpose()?.flatten(),
        stream_view_type: stream.as_ref().map(stream_view_type).transpose()?,
    })
}

fn attribute(node: &Node) -> Result<Attribute, Problem> {
    let fields = node.fields("an attribute definition", &[&["AttributeName", "AttributeType"]])?;
    Ok(Attribute {
        name: fields.require("AttributeName")?.text()?.to_owned(),
        attribute_type: fields.require("AttributeType")?.one_of(&["S", "N", "B"])?,
    })
}

fn key_schema(node: &Node, attributes: &[Attribute]) -> Result<Vec<KeyElement>, Problem> {
    let element = |node: &Node| {
        let fields = node.fields("a key element", &[&["AttributeName", "KeyType"]])?;
        let name = fields.require("AttributeName")?;
        let attribute = name.text()?.to_owned();
        if !attributes.iter().any(|defined| defined.name == attribute) {
            return Err(name.problem(format!("`{attribute}` is not among the AttributeDefinitions")));
        }
        Ok(KeyElement { attribute, key_type: fields.require("KeyType")?.one_of(&["HASH", "RANGE"])? })
    };
    node.list()?.iter().map(element).collect()
}

fn secondary_index(node: &Node, attributes: &[Attribute]) -> Result<SecondaryIndex, Problem> {
    let fields = node.fields("an index", &[INDEX, INDEX_DEPLOYED])?;
    let projection =
        fields.require("Projection")?.fields("a projection", &[&["ProjectionType", "NonKeyAttributes"]])?;
    let non_key_attributes = projection.get("NonKeyAttributes").map(Node::texts).transpose()?;
    Ok(SecondaryIndex {
        name: fields.require("IndexName")?.text()?.to_owned(),
        key_schema: key_schema(fields.require("KeySchema")?, attributes)?,
        projection_type: projection.require("ProjectionType")?.one_of(&["ALL", "KEYS_ONLY", "INCLUDE"])?,
        non_key_attributes: non_key_attributes.unwrap_or_default(),
    })
}

fn ttl_attribute(node: &Node) -> Result<Option<String>, Problem> {
    let fields = node.fields("TimeToLiveSpecification", &[&["AttributeName", "Enabled"]])?;
    let attribute = fields.require("AttributeName")?.text()?;
    Ok(fields.require("Enabled")?.flag()?.then(|| attribute.to_owned()))
}

fn stream_view_type(node: &Node) -> Result<String, Problem> {
    let choices = ["NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES", "KEYS_ONLY"];
    node.fields("StreamSpecification", &[&["StreamViewType"]])?.require("StreamViewType")?.one_of(&choices)
}

// ---- Functions ----

/// What `Globals` may say, too.
const FUNCTION: &[&str] = &["Environment", "Timeout"];
const FUNCTION_DEPLOYED: &[&str] = &[
    "Architectures",
    "CodeUri",
    "Description",
    "EventInvokeConfig",
    "Handler",
    "LoggingConfig",
    "MemorySize",
    "PermissionsBoundary",
    "ReservedConcurrentExecutions",
    "Runtime",
    "Tags",
];
const FUNCTION_ALONE: &[&str] = &["Events", "Policies"];

/// Lambda's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// What all functions share.
pub(super) struct FunctionDefaults {
    environment: BTreeMap<String, String>,
    timeout: Duration,
}

impl FunctionDefaults {
    pub(super) fn read(scope: &Scope<'_>, globals: Option<&Node>) -> Result<Self, Problem> {
        let mut defaults = Self { environment: BTreeMap::new(), timeout: DEFAULT_TIMEOUT };
        if let Some(globals) = globals
            && let Some(function) = globals.fields("Globals", &[&["Function"]])?.get("Function")
        {
            let of = "Globals.Function";
            let properties = function.fields(of, &[FUNCTION, FUNCTION_DEPLOYED])?;
            defaults.environment = environment(scope, &properties)?;
            defaults.timeout = timeout(scope, &properties)?.unwrap_or(DEFAULT_TIMEOUT);
        }
        Ok(defaults)
    }
}

pub(super) fn function(
    scope: &Scope<'_>,
    defaults: &FunctionDefaults,
    tables: &[Table],
    logical_id: &str,
    metadata: &Node,
    node: &Node,
) -> Result<Function, Problem> {
    let properties =
        node.fields("AWS::Serverless::Function", &[FUNCTION, FUNCTION_DEPLOYED, FUNCTION_ALONE])?;
    let mut function = Function {
        logical_id: logical_id.to_owned(),
        binary: binary(metadata)?,
        environment: defaults.environment.clone(),
        timeout: timeout(scope, &properties)?.unwrap_or(defaults.timeout),
        triggers: Vec::new(),
        permissions: match resolved(scope, &properties, "Policies")? {
            Some(policies) => permissions(&policies, tables)?,
            None => Vec::new(),
        },
    };
    function.environment.extend(environment(scope, &properties)?);
    for event in properties.get("Events").map_or(Ok(&[][..]), Node::entries)? {
        let event = event.node.fields("an event", &[&["Type", "Properties"]])?;
        let properties = event.require("Properties")?;
        function.triggers.push(match event.require("Type")?.one_of(&["HttpApi", "ScheduleV2"])?.as_str() {
            "HttpApi" => Trigger::HttpApi(route(scope, properties)?),
            _ => Trigger::Schedule(schedule(scope, properties)?),
        });
    }
    Ok(function)
}

fn binary(metadata: &Node) -> Result<String, Problem> {
    let metadata = metadata.fields("a function's metadata", &[&["BuildMethod", "BuildProperties"]])?;
    metadata.require("BuildMethod")?.one_of(&["rust-cargolambda"])?;
    let build = metadata.require("BuildProperties")?.fields("BuildProperties", &[&["Binary"]])?;
    Ok(build.require("Binary")?.text()?.to_owned())
}

fn environment(scope: &Scope<'_>, properties: &Fields<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let Some(environment) = resolved(scope, properties, "Environment")? else {
        return Ok(BTreeMap::new());
    };
    let environment = environment.fields("Environment", &[&["Variables"]])?;
    let variables = environment.require("Variables")?.entries()?.iter();
    variables.map(|variable| Ok((variable.name.clone(), variable.node.text()?.to_owned()))).collect()
}

fn timeout(scope: &Scope<'_>, properties: &Fields<'_>) -> Result<Option<Duration>, Problem> {
    let timeout = resolved(scope, properties, "Timeout")?;
    timeout.map(|seconds| seconds.number(1).map(Duration::from_secs)).transpose()
}

fn route(scope: &Scope<'_>, node: &Node) -> Result<Route, Problem> {
    let properties = node.fields("an HttpApi event", &[&["ApiId", "Method", "Path"]])?;
    let api = properties.require("ApiId")?;
    let api_id = scope.text(api)?;
    if !matches!(scope.kind(&api_id), Some(Kind::Api)) {
        return Err(api.problem(format!("`{api_id}` is not an AWS::Serverless::HttpApi of this template")));
    }
    let (method, path) = match (properties.get("Method"), properties.get("Path")) {
        (None, None) => return Ok(Route::Default),
        (Some(method), Some(path)) => (scope.value(method)?, scope.value(path)?),
        _ => return Err(node.problem("a route needs both `Method` and `Path`, or neither")),
    };
    let method = method.one_of(&["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])?;
    let pattern = path.text()?;
    if !pattern.starts_with('/') || pattern.contains("+}") {
        return Err(Problem::not_understood(path.line, &format!("the path `{pattern}`")));
    }
    Ok(Route::Exact { method, path: pattern.to_owned() })
}

const SCHEDULE: &[&str] = &["ScheduleExpression", "Input"];
const SCHEDULE_DEPLOYED: &[&str] = &["Description", "OmitName", "PermissionsBoundary", "RetryPolicy"];

fn schedule(scope: &Scope<'_>, node: &Node) -> Result<Schedule, Problem> {
    let properties = node.fields("a ScheduleV2 event", &[SCHEDULE, SCHEDULE_DEPLOYED])?;
    let expression = scope.value(properties.require("ScheduleExpression")?)?;
    let every = rate(expression.text()?)
        .ok_or_else(|| expression.problem("expected a rate, as in `rate(1 minute)` or `rate(5 minutes)`"))?;
    Ok(Schedule { every, input: scope.text(properties.require("Input")?)? })
}

fn rate(expression: &str) -> Option<Duration> {
    let (number, unit) = expression.strip_prefix("rate(")?.strip_suffix(')')?.split_once(' ')?;
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let seconds = match (number, unit) {
        (1, "minute") | (2.., "minutes") => 60,
        (1, "hour") | (2.., "hours") => 60 * 60,
        (1, "day") | (2.., "days") => 24 * 60 * 60,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

// ---- Streams ----

const MAPPING: &[&str] = &[
    "BatchSize",
    "EventSourceArn",
    "FilterCriteria",
    "FunctionName",
    "MaximumRecordAgeInSeconds",
    "MaximumRetryAttempts",
    "StartingPosition",
];

/// Gives a function the records of a stream. All numbers are required: Lambda's own tries a batch again for a day.
pub(super) fn mapping(
    scope: &Scope<'_>,
    node: &Node,
    tables: &[Table],
    functions: &mut [Function],
) -> Result<(), Problem> {
    let properties = node.fields("AWS::Lambda::EventSourceMapping", &[MAPPING, &["Tags"]])?;
    let value = |name| scope.value(properties.require(name)?);
    let number = |name, least| value(name)?.number(least);
    let stream = value("EventSourceArn")?;
    let stream_arn = policies::resource(&stream, tables)?;
    let Resource::Stream(table) = stream_arn.clone() else {
        return Err(stream.problem(format!("`{stream_arn}` is no table's stream")));
    };
    let filters = resolved(scope, &properties, "FilterCriteria")?;
    let mapping = StreamMapping {
        table,
        batch_size: usize::try_from(number("BatchSize", 1)?).unwrap_or(usize::MAX),
        starting_position: value("StartingPosition")?.one_of(&["LATEST", "TRIM_HORIZON"])?,
        filters: filters.as_ref().map(self::filters).transpose()?.unwrap_or_default(),
        retries: usize::try_from(number("MaximumRetryAttempts", 0)?).unwrap_or(usize::MAX),
        max_age: Duration::from_secs(number("MaximumRecordAgeInSeconds", 60)?),
    };
    let name = value("FunctionName")?;
    let logical_id = name.text()?.rsplit(':').next().unwrap_or_default();
    let Some(function) = functions.iter_mut().find(|function| function.logical_id == logical_id) else {
        return Err(name.problem(format!("`{logical_id}` is no function of this template")));
    };
    for action in policies::STREAM_ACTIONS {
        let needed = Permission { action: (*action).to_owned(), resource: stream_arn.clone() };
        if !function.permissions.contains(&needed) {
            return Err(name.problem(format!("a stream's function needs {needed}")));
        }
    }
    function.triggers.push(Trigger::Stream(mapping));
    Ok(())
}

fn filters(node: &Node) -> Result<Vec<Filter>, Problem> {
    let filters = node.fields("FilterCriteria", &[&["Filters"]])?.require("Filters")?;
    let filter = |filter: &Node| {
        let pattern = filter.fields("a filter", &[&["Pattern"]])?.require("Pattern")?;
        Filter::parse(pattern.text()?).map_err(|problem| pattern.problem(problem))
    };
    filters.list()?.iter().map(filter).collect()
}

// ---- The API ----

const API: &[&str] = &["StageName", "CorsConfiguration", "RouteSettings"];
const API_DEPLOYED: &[&str] =
    &["AccessLogSettings", "DefaultRouteSettings", "Description", "DisableExecuteApiEndpoint", "Tags"];
const CORS: &[&str] = &["AllowOrigins", "AllowMethods", "AllowHeaders", "ExposeHeaders", "MaxAge"];

/// What the API answers to browsers. Its throttles are not executed here, but those of single routes must
/// name `routes` that exist, or a deployment fails.
pub(super) fn api(scope: &Scope<'_>, node: &Node, routes: &[&Route]) -> Result<Option<Cors>, Problem> {
    let properties = node.fields("AWS::Serverless::HttpApi", &[API, API_DEPLOYED])?;
    // The name of any other stage would be part of every path.
    properties.require("StageName")?.one_of(&["$default"])?;
    for setting in properties.get("RouteSettings").map_or(Ok(&[][..]), Node::entries)? {
        if !routes.iter().any(|route| route.to_string() == setting.name) {
            return Err(Problem::new(setting.line, format!("no function has the route `{}`", setting.name)));
        }
    }
    resolved(scope, &properties, "CorsConfiguration")?.map(|node| cors(&node)).transpose()
}

fn cors(node: &Node) -> Result<Cors, Problem> {
    let fields = node.fields("CorsConfiguration", &[CORS])?;
    let texts = |name| fields.get(name).map_or(Ok(Vec::new()), Node::texts);
    Ok(Cors {
        allow_origins: fields.require("AllowOrigins")?.texts()?,
        allow_methods: texts("AllowMethods")?,
        allow_headers: texts("AllowHeaders")?,
        expose_headers: texts("ExposeHeaders")?,
        max_age: Duration::from_secs(fields.get("MaxAge").map_or(Ok(0), |age| age.number(0))?),
    })
}

/// A property without functions in it, if it is there at all.
fn resolved(scope: &Scope<'_>, properties: &Fields<'_>, name: &str) -> Result<Option<Node>, Problem> {
    properties.get(name).map_or(Ok(None), |node| scope.resolve(node))
}
