//! A function's policies, taken apart into permissions: one action on one resource each.
//!
//! A statement allows named actions on tables, indexes and streams of the template. Wildcards, conditions, denials and the
//! policies that SAM or AWS make are not understood: each would allow more than can be read here.

use super::document::{Node, Value};
use super::{Permission, Problem, Resource, TABLE_ARN, Table};

/// The actions by which DynamoDB knows what a call does to rows. (`TransactWriteItems` is none of them: it needs those
/// of its writes.)
const ACTIONS: &[&str] = &[
    "dynamodb:BatchGetItem",
    "dynamodb:BatchWriteItem",
    "dynamodb:ConditionCheckItem",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:Scan",
    "dynamodb:UpdateItem",
];

/// The actions by which Lambda reads a stream for a function: a mapping needs all of them.
pub(super) const STREAM_ACTIONS: &[&str] =
    &["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"];

/// What these policies, without functions in them, allow.
pub(super) fn permissions(policies: &Node, tables: &[Table]) -> Result<Vec<Permission>, Problem> {
    let mut allowed = Vec::new();
    for policy in one_or_more(policies) {
        let policy = policy.fields("a policy", &[&["Version", "Statement"]])?;
        if let Some(version) = policy.get("Version") {
            version.one_of(&["2012-10-17"])?;
        }
        for statement in one_or_more(policy.require("Statement")?) {
            add(&mut allowed, statement, tables)?;
        }
    }
    Ok(allowed)
}

fn add(allowed: &mut Vec<Permission>, statement: &Node, tables: &[Table]) -> Result<(), Problem> {
    let fields = statement.fields("a policy's statement", &[&["Sid", "Effect", "Action", "Resource"]])?;
    fields.require("Effect")?.one_of(&["Allow"])?;
    for node in one_or_more(fields.require("Resource")?) {
        let resource = resource(node, tables)?;
        let actions = if matches!(resource, Resource::Stream(_)) { STREAM_ACTIONS } else { ACTIONS };
        for action in one_or_more(fields.require("Action")?) {
            let permission = Permission { action: action.one_of(actions)?, resource: resource.clone() };
            if allowed.contains(&permission) {
                return Err(action.problem(format!("{permission} is allowed twice")));
            }
            allowed.push(permission);
        }
    }
    Ok(())
}

pub(super) fn resource(node: &Node, tables: &[Table]) -> Result<Resource, Problem> {
    let arn = node.text()?;
    let found = arn.strip_prefix(TABLE_ARN).and_then(|path| {
        let (name, of_table) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let table = tables.iter().find(|table| table.name == name)?;
        let table_name = table.name.clone();
        match of_table.map(|rest| rest.split_once('/')) {
            None => Some(Resource::Table(table_name)),
            Some(Some(("index", index))) => {
                let mut indexes = table.global_secondary_indexes.iter();
                let index = indexes.find(|known| known.name == index)?.name.clone();
                Some(Resource::Index { table: table_name, index })
            }
            Some(Some(("stream", _))) if table.stream_view_type.is_some() => {
                Some(Resource::Stream(table_name))
            }
            Some(_) => None,
        }
    });
    let what = "is no table of this template, and no index or stream of one";
    found.ok_or_else(|| node.problem(format!("`{arn}` {what}")))
}

/// IAM takes one of a thing in place of a list.
fn one_or_more(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}
