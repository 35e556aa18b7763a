//! What names mean: parameters, pseudo parameters, conditions and resources, and the functions over them.

use std::collections::BTreeMap;

use super::document::{Entry, Intrinsic, Node, Value};
use super::{Place, Problem, Resource};

/// What a resource is on this machine.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Table,
    Function,
    Api,
    /// What invokes a function with the records of a stream.
    Mapping,
    /// A type that deployments need and this machine does not.
    NotLocal(String),
}

/// Everything that an intrinsic function may name.
pub(super) struct Scope<'a> {
    parameters: BTreeMap<String, Value>,
    conditions: BTreeMap<&'a str, &'a Node>,
    resources: BTreeMap<&'a str, Kind>,
    place: Place<'a>,
}

const REGION: &str = "local";
const ACCOUNT: &str = "000000000000";

impl<'a> Scope<'a> {
    /// A scope without resources: they may depend on conditions, which may not depend on them.
    pub(super) fn new(
        parameters: BTreeMap<String, Value>,
        conditions: &'a [Entry],
        place: Place<'a>,
    ) -> Self {
        let conditions = conditions.iter().map(|entry| (entry.name.as_str(), &entry.node)).collect();
        Self { parameters, conditions, resources: BTreeMap::new(), place }
    }

    pub(super) fn add_resource(&mut self, logical_id: &'a str, kind: Kind) {
        self.resources.insert(logical_id, kind);
    }

    pub(super) fn kind(&self, logical_id: &str) -> Option<&Kind> {
        self.resources.get(logical_id)
    }

    /// A node without any function in it; `None` if it is `AWS::NoValue`.
    pub(super) fn resolve(&self, node: &Node) -> Result<Option<Node>, Problem> {
        let value = match &node.value {
            Value::Text(text) => Value::Text(text.clone()),
            Value::List(items) => Value::List(self.resolve_all(items)?),
            Value::Map(entries) => Value::Map(self.resolve_entries(entries)?),
            Value::Call(intrinsic, argument) => return self.call(*intrinsic, argument),
        };
        Ok(Some(Node { line: node.line, value }))
    }

    /// A node that must have a value.
    pub(super) fn value(&self, node: &Node) -> Result<Node, Problem> {
        self.resolve(node)?.ok_or_else(|| node.problem("a value is missing: this is AWS::NoValue"))
    }

    pub(super) fn text(&self, node: &Node) -> Result<String, Problem> {
        self.value(node)?.text().map(str::to_owned)
    }

    /// Whether the condition of this name is true.
    pub(super) fn holds(&self, name: &Node) -> Result<bool, Problem> {
        self.holds_within(name, &[])
    }

    /// A rule about the parameters together, which a deployment with others does not pass.
    pub(super) fn assert(&self, rule: &Entry) -> Result<(), Problem> {
        let fields = rule.node.fields("a rule", &[&["RuleCondition", "Assertions"]])?;
        if !fields.get("RuleCondition").map_or(Ok(true), |condition| self.decide(condition, &[]))? {
            return Ok(());
        }
        for assertion in fields.require("Assertions")?.list()? {
            let fields = assertion.fields("an assertion", &[&["Assert", "AssertDescription"]])?;
            if !self.decide(fields.require("Assert")?, &[])? {
                let description = fields.require("AssertDescription")?.text()?;
                return Err(Problem::new(rule.line, format!("rule `{}`: {description}", rule.name)));
            }
        }
        Ok(())
    }

    fn resolve_all(&self, items: &[Node]) -> Result<Vec<Node>, Problem> {
        items.iter().filter_map(|item| self.resolve(item).transpose()).collect()
    }

    fn resolve_entries(&self, entries: &[Entry]) -> Result<Vec<Entry>, Problem> {
        let resolve = |entry: &Entry| {
            let node = self.resolve(&entry.node)?;
            Ok(node.map(|node| Entry { name: entry.name.clone(), line: entry.line, node }))
        };
        entries.iter().filter_map(|entry| resolve(entry).transpose()).collect()
    }

    fn call(&self, intrinsic: Intrinsic, argument: &Node) -> Result<Option<Node>, Problem> {
        let line = argument.line;
        let value = match intrinsic {
            Intrinsic::If => {
                let [condition, yes, no] = arguments(intrinsic, argument)?;
                return self.resolve(if self.holds(condition)? { yes } else { no });
            }
            Intrinsic::Ref => match argument.text()? {
                "AWS::NoValue" => return Ok(None),
                name => self.reference(name, line)?,
            },
            Intrinsic::GetAtt => Value::Text(match &argument.value {
                Value::List(_) => {
                    let [resource, attribute] = arguments(intrinsic, argument)?;
                    self.attribute(resource.text()?, &self.text(attribute)?, line)?
                }
                _ => self.dotted_attribute(argument.text()?, line)?,
            }),
            Intrinsic::Sub => Value::Text(match &argument.value {
                Value::List(_) => {
                    let [text, variables] = arguments(intrinsic, argument)?;
                    self.substitute(text, &self.resolve_entries(variables.entries()?)?)?
                }
                _ => self.substitute(argument, &[])?,
            }),
            Intrinsic::Join => {
                let [separator, items] = arguments(intrinsic, argument)?;
                Value::Text(self.value(items)?.texts()?.join(separator.text()?))
            }
            Intrinsic::Split => {
                let [separator, text] = arguments(intrinsic, argument)?;
                list_of(self.text(text)?.split(separator.text()?), line)
            }
            Intrinsic::Select => {
                let [index, items] = arguments(intrinsic, argument)?;
                let (at, items) = (self.value(index)?.number(0)?, self.value(items)?);
                let item = usize::try_from(at).ok().and_then(|at| items.list().ok()?.get(at).cloned());
                item.ok_or_else(|| index.problem(format!("there is no item {at} to select")))?.value
            }
            Intrinsic::And | Intrinsic::Condition | Intrinsic::Equals | Intrinsic::Not | Intrinsic::Or => {
                return Err(argument.problem(format!("{intrinsic} belongs under Conditions")));
            }
        };
        Ok(Some(Node { line, value }))
    }

    /// What `!Ref` gives.
    fn reference(&self, name: &str, line: usize) -> Result<Value, Problem> {
        if let Some(value) = self.parameters.get(name) {
            return Ok(value.clone());
        }
        let text = match name {
            "AWS::AccountId" => ACCOUNT.to_owned(),
            "AWS::Partition" => "aws".to_owned(),
            "AWS::Region" => REGION.to_owned(),
            "AWS::StackName" => "rollcall".to_owned(),
            "AWS::URLSuffix" => "amazonaws.com".to_owned(),
            _ => match self.resource(name, line)? {
                Kind::Table => (self.place.table_name)(name),
                Kind::Function | Kind::Api | Kind::Mapping => name.to_owned(),
                Kind::NotLocal(kind) => return Err(not_local(name, kind, line)),
            },
        };
        Ok(Value::Text(text))
    }

    /// What `!GetAtt` gives: an ARN of this machine.
    fn attribute(&self, name: &str, attribute: &str, line: usize) -> Result<String, Problem> {
        match (self.resource(name, line)?, attribute) {
            (Kind::Table, "Arn") => Ok(Resource::Table((self.place.table_name)(name)).to_string()),
            (Kind::Table, "StreamArn") => Ok(Resource::Stream((self.place.table_name)(name)).to_string()),
            (Kind::Api, "ApiEndpoint") => Ok(self.place.api_url.to_owned()),
            (Kind::Function, "Arn") => Ok(format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")),
            (Kind::NotLocal(kind), _) => Err(not_local(name, kind, line)),
            _ => Err(Problem::not_understood(line, &format!("`{name}.{attribute}`"))),
        }
    }

    fn dotted_attribute(&self, path: &str, line: usize) -> Result<String, Problem> {
        match path.split_once('.') {
            Some((name, attribute)) => self.attribute(name, attribute, line),
            None => Err(Problem::new(line, format!("`{path}` names no attribute"))),
        }
    }

    fn resource(&self, name: &str, line: usize) -> Result<&Kind, Problem> {
        self.resources
            .get(name)
            .ok_or_else(|| Problem::new(line, format!("there is no parameter or resource `{name}`")))
    }

    /// `${Name}`, `${Resource.Attribute}` and `${!literal}` in a text; `variables` are the second form's own.
    fn substitute(&self, template: &Node, variables: &[Entry]) -> Result<String, Problem> {
        let mut rest = template.text()?;
        let mut text = String::with_capacity(rest.len());
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) =
                after.split_once('}').ok_or_else(|| template.problem("`${` without its `}`"))?;
            text.push_str(before);
            if let Some(literal) = name.strip_prefix('!') {
                text.push_str("${");
                text.push_str(literal);
                text.push('}');
            } else if let Some(variable) = variables.iter().find(|variable| variable.name == name) {
                text.push_str(variable.node.text()?);
            } else if name.contains('.') {
                text.push_str(&self.dotted_attribute(name, template.line)?);
            } else {
                let value = self.reference(name, template.line)?;
                text.push_str(Node { line: template.line, value }.text()?);
            }
            rest = behind;
        }
        text.push_str(rest);
        Ok(text)
    }

    /// `within` are the conditions that are being decided, so that one that needs itself is an error.
    fn holds_within(&self, name: &Node, within: &[&str]) -> Result<bool, Problem> {
        let line = name.line;
        let name = name.text()?;
        if within.contains(&name) {
            return Err(Problem::new(line, format!("condition `{name}` depends on itself")));
        }
        let condition = self
            .conditions
            .get(name)
            .ok_or_else(|| Problem::new(line, format!("there is no condition `{name}`")))?;
        self.decide(condition, &[within, &[name]].concat())
    }

    fn decide(&self, condition: &Node, within: &[&str]) -> Result<bool, Problem> {
        match &condition.value {
            Value::Call(Intrinsic::Equals, argument) => {
                let [left, right] = arguments(Intrinsic::Equals, argument)?;
                Ok(self.text(left)? == self.text(right)?)
            }
            Value::Call(Intrinsic::Not, argument) => {
                let [negated] = arguments(Intrinsic::Not, argument)?;
                Ok(!self.decide(negated, within)?)
            }
            Value::Call(Intrinsic::And, argument) => {
                let decided = self.decide_all(argument, within)?;
                Ok(decided.into_iter().all(|holds| holds))
            }
            Value::Call(Intrinsic::Or, argument) => {
                let decided = self.decide_all(argument, within)?;
                Ok(decided.into_iter().any(|holds| holds))
            }
            Value::Call(Intrinsic::Condition, name) => self.holds_within(name, within),
            Value::Map(entries) => match entries.as_slice() {
                [Entry { name, node, .. }] if name == "Condition" => self.holds_within(node, within),
                _ => Err(condition.problem("this condition is not understood")),
            },
            _ => Err(condition.problem("this condition is not understood")),
        }
    }

    fn decide_all(&self, conditions: &Node, within: &[&str]) -> Result<Vec<bool>, Problem> {
        conditions.list()?.iter().map(|condition| self.decide(condition, within)).collect()
    }
}

/// Texts as a list of nodes.
pub(super) fn list_of<'t>(items: impl Iterator<Item = &'t str>, line: usize) -> Value {
    Value::List(items.map(|item| Node { line, value: Value::Text(item.to_owned()) }).collect())
}

fn arguments<const N: usize>(intrinsic: Intrinsic, argument: &Node) -> Result<&[Node; N], Problem> {
    argument.list()?.try_into().map_err(|_| argument.problem(format!("{intrinsic} takes a list of {N}")))
}

fn not_local(name: &str, kind: &str, line: usize) -> Problem {
    Problem::new(line, format!("`{name}` ({kind}) does not exist on this machine"))
}
