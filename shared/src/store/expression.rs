//! One conditional update in DynamoDB's words: for an `UpdateItem`, or as a part of a transaction.

use std::borrow::Cow;
use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};

use super::{broken, string};
use crate::domain::agent::AgentId;
use crate::domain::failure::StoreError;

/// A clause, as DynamoDB reads it.
type Clause = Cow<'static, str>;

/// What a write requires and what it changes, with everything that the clauses name.
#[derive(Clone, Debug, Default)]
pub(super) struct Expression {
    conditions: Vec<Clause>,
    set: Vec<Clause>,
    add: Vec<Clause>,
    remove: Vec<Clause>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    /// What must be so, beside what is required already.
    pub(super) fn require(&mut self, condition: impl Into<Clause>) {
        self.conditions.push(condition.into());
    }

    /// A clause of `SET`.
    pub(super) fn set(&mut self, clause: impl Into<Clause>) {
        self.set.push(clause.into());
    }

    /// A clause of `ADD`.
    pub(super) fn add(&mut self, clause: impl Into<Clause>) {
        self.add.push(clause.into());
    }

    /// One attribute that goes, or several with commas between them.
    pub(super) fn remove(&mut self, attributes: impl Into<Clause>) {
        self.remove.push(attributes.into());
    }

    /// Sets an attribute to a value, under the attribute's own name: `health = :health`.
    pub(super) fn write(&mut self, attribute: &str, value: AttributeValue) {
        self.set(format!("{attribute} = :{attribute}"));
        self.value(&format!(":{attribute}"), value);
    }

    /// What `#name` stands for.
    pub(super) fn name(&mut self, placeholder: &str, attribute: String) {
        self.names.insert(placeholder.to_owned(), attribute);
    }

    /// What `:name` stands for.
    pub(super) fn value(&mut self, placeholder: &str, value: AttributeValue) {
        self.values.insert(placeholder.to_owned(), value);
    }

    /// The condition, whole.
    pub(super) fn condition(&self) -> String {
        self.conditions.join(" AND ")
    }

    /// The update, whole.
    pub(super) fn update(&self) -> String {
        let parts = [("SET", &self.set), ("ADD", &self.add), ("REMOVE", &self.remove)];
        let parts = parts.into_iter().filter(|(_, clauses)| !clauses.is_empty());
        parts.map(|(word, clauses)| format!("{word} {}", clauses.join(", "))).collect::<Vec<_>>().join(" ")
    }

    /// The write by itself, of an agent's row.
    pub(super) fn into_request(
        self,
        request: UpdateItemFluentBuilder,
        table: &str,
        agent_id: AgentId,
    ) -> UpdateItemFluentBuilder {
        request
            .table_name(table)
            .key("agent_id", string(agent_id))
            .condition_expression(self.condition())
            .update_expression(self.update())
            .set_expression_attribute_names(some(self.names))
            .set_expression_attribute_values(some(self.values))
    }

    /// The write as a part of a transaction.
    pub(super) fn into_part(self, table: &str, agent_id: AgentId) -> Result<TransactWriteItem, StoreError> {
        let update = Update::builder()
            .table_name(table)
            .key("agent_id", string(agent_id))
            .condition_expression(self.condition())
            .update_expression(self.update())
            .set_expression_attribute_names(some(self.names))
            .set_expression_attribute_values(some(self.values));
        Ok(TransactWriteItem::builder().update(update.build().map_err(broken)?).build())
    }
}

/// DynamoDB refuses a map without entries.
fn some<T>(map: HashMap<String, T>) -> Option<HashMap<String, T>> {
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Item;
    use super::*;

    impl Expression {
        pub(in super::super) const fn names(&self) -> &HashMap<String, String> {
            &self.names
        }

        pub(in super::super) const fn values(&self) -> &HashMap<String, AttributeValue> {
            &self.values
        }

        /// What the update makes of a row, whatever the condition: as much of DynamoDB's language as is spoken here.
        pub(in super::super) fn apply(&self, row: &mut Item) {
            let before = row.clone();
            let attribute = |name: &str| self.names.get(name).cloned().unwrap_or_else(|| name.to_owned());
            let operand = |text: &str| {
                let either = text.strip_prefix("if_not_exists(").and_then(|text| text.strip_suffix(')'));
                let text = match either.and_then(|either| either.split_once(", ")) {
                    Some((first, other)) if !before.contains_key(&attribute(first)) => other,
                    Some((first, _)) => first,
                    None => text,
                };
                let found = self.values.get(text).or_else(|| before.get(&attribute(text)));
                found.unwrap_or_else(|| panic!("{text} is nowhere")).clone()
            };
            for clause in &self.set {
                let (target, value) = clause.split_once(" = ").expect("an assignment");
                let value = match value.split_once(" + ") {
                    None => operand(value),
                    Some((one, other)) => sum(&operand(one), &operand(other)),
                };
                row.insert(attribute(target), value);
            }
            for clause in &self.add {
                let (target, value) = clause.split_once(' ').expect("a target and a value");
                let target = attribute(target);
                let value = before.get(&target).map_or_else(|| operand(value), |is| sum(is, &operand(value)));
                row.insert(target, value);
            }
            for name in self.remove.iter().flat_map(|clause| clause.split(',')) {
                row.remove(&attribute(name.trim()));
            }
        }
    }

    fn sum(one: &AttributeValue, other: &AttributeValue) -> AttributeValue {
        let number = |value: &AttributeValue| value.as_n().expect("a number").parse::<i64>().expect("whole");
        AttributeValue::N((number(one) + number(other)).to_string())
    }

    #[test]
    fn an_expression_has_the_parts_that_it_needs_and_no_others() {
        let mut expression = Expression::default();
        expression.require("a = :a");
        expression.require("b = :b");
        expression.write("c", string("c"));
        assert_eq!(
            (expression.condition().as_str(), expression.update().as_str()),
            ("a = :a AND b = :b", "SET c = :c")
        );
        expression.remove("d");
        expression.add("e :one");
        assert_eq!(expression.update(), "SET c = :c ADD e :one REMOVE d");
    }
}
