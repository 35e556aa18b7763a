//! Parameters: what is given, else the default, checked as a deployment checks it.

use std::collections::BTreeMap;

use regex_lite::Regex;

use super::Problem;
use super::document::{Entry, Fields, Node, Value};
use super::scope::list_of;

const KNOWN: &[&str] = &[
    "Type",
    "Default",
    "Description",
    "AllowedPattern",
    "AllowedValues",
    "ConstraintDescription",
    "MinValue",
    "MaxValue",
];

/// The value of every declared parameter. `section` is the line of `Parameters`, for what was given in vain.
pub(super) fn read(
    declared: &[Entry],
    given: &BTreeMap<String, String>,
    section: usize,
) -> Result<BTreeMap<String, Value>, Problem> {
    if let Some(name) = given.keys().find(|name| !declared.iter().any(|entry| entry.name == **name)) {
        return Err(Problem::new(section, format!("there is no parameter `{name}`")));
    }
    let read = |entry: &Entry| Ok((entry.name.clone(), value(entry, given.get(&entry.name))?));
    declared.iter().map(read).collect()
}

fn value(declared: &Entry, given: Option<&String>) -> Result<Value, Problem> {
    let Entry { name, line, node } = declared;
    let fields = node.fields("a parameter", &[KNOWN])?;
    let text = match (given, fields.get("Default")) {
        (Some(given), _) => given,
        (None, Some(default)) => default.text()?,
        (None, None) => {
            return Err(Problem::new(*line, format!("parameter `{name}` has no default and needs a value")));
        }
    };
    let refused = |expected: String| {
        Problem::new(*line, format!("parameter `{name}` is `{text}`, but must be {expected}"))
    };
    let kind = fields.require("Type")?.one_of(&["String", "Number", "CommaDelimitedList"])?;
    let value = match kind.as_str() {
        "CommaDelimitedList" => list_of(text.split(',').map(str::trim), *line),
        "Number" => {
            let number = finite(text).ok_or_else(|| refused("a number".to_owned()))?;
            if let Some(least) = bound(&fields, "MinValue")?.filter(|least| number < *least) {
                return Err(refused(format!("at least {least}")));
            }
            if let Some(most) = bound(&fields, "MaxValue")?.filter(|most| number > *most) {
                return Err(refused(format!("at most {most}")));
            }
            Value::Text(text.trim().to_owned())
        }
        _ => Value::Text(text.to_owned()),
    };
    if let Some(pattern) = fields.get("AllowedPattern") {
        let whole = Regex::new(&format!("^(?:{})$", pattern.text()?));
        let whole = whole.map_err(|error| pattern.problem(format!("not understood: {error}")))?;
        let is_allowed = match &value {
            Value::List(items) => items.iter().all(|item| item.text().is_ok_and(|text| whole.is_match(text))),
            _ => whole.is_match(text),
        };
        if !is_allowed {
            let constraint = fields.get("ConstraintDescription").map(Node::text).transpose()?;
            return Err(refused(constraint.map_or_else(|| format!("like {whole}"), str::to_owned)));
        }
    }
    if let Some(allowed) = fields.get("AllowedValues") {
        let allowed = allowed.texts()?;
        let is_allowed = |text: &str| allowed.iter().any(|allowed| allowed == text);
        let all_allowed = match &value {
            Value::List(items) => items.iter().all(|item| item.text().is_ok_and(is_allowed)),
            _ => is_allowed(text.trim()),
        };
        if !all_allowed {
            return Err(refused(format!("one of {}", allowed.join(", "))));
        }
    }
    Ok(value)
}

fn bound(fields: &Fields<'_>, name: &str) -> Result<Option<f64>, Problem> {
    let read = |node: &Node| {
        let text = node.text()?;
        finite(text).ok_or_else(|| node.problem(format!("`{text}` is not a number")))
    };
    fields.get(name).map(read).transpose()
}

fn finite(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}
