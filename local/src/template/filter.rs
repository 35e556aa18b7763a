//! Which records of a stream a function gets: Lambda's patterns, as far as they are understood.

use serde_json::{Map, Value};

/// A pattern that a record must match in all that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<(Vec<String>, Vec<Word>)>);

/// What a text of the record may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Is(String),
    Prefix(String),
}

/// What a pattern may ask about, beside the event's name. A name that no record has would let nothing through.
const IMAGES: [&str; 3] = ["dynamodb.Keys.", "dynamodb.NewImage.", "dynamodb.OldImage."];

impl Filter {
    /// Reads a pattern, which is JSON: objects down to lists of what a text may be.
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let pattern: Map<String, Value> = serde_json::from_str(pattern)
            .map_err(|error| format!("the pattern is no JSON object: {error}"))?;
        let mut rules = Vec::new();
        read(&pattern, &[], &mut rules)?;
        Ok(Self(rules))
    }

    /// Whether the record, in the form that functions get, matches.
    #[must_use]
    pub fn matches(&self, record: &Value) -> bool {
        self.0.iter().all(|(path, words)| {
            let found = path.iter().try_fold(record, |value, name| value.get(name)).and_then(Value::as_str);
            found.is_some_and(|text| {
                words.iter().any(|word| match word {
                    Word::Is(expected) => text == expected,
                    Word::Prefix(prefix) => text.starts_with(prefix),
                })
            })
        })
    }
}

fn read(
    pattern: &Map<String, Value>,
    within: &[String],
    rules: &mut Vec<(Vec<String>, Vec<Word>)>,
) -> Result<(), String> {
    for (name, value) in pattern {
        let path = [within, std::slice::from_ref(name)].concat();
        match value {
            Value::Object(inner) => read(inner, &path, rules)?,
            Value::Array(words) if !words.is_empty() => {
                let full = path.join(".");
                if full != "eventName" && !IMAGES.iter().any(|image| full.starts_with(image)) {
                    return Err(format!("`{full}` of a record is not understood"));
                }
                rules.push((path, words.iter().map(word).collect::<Result<_, _>>()?));
            }
            other => return Err(format!("`{other}` of the pattern is not understood")),
        }
    }
    Ok(())
}

fn word(word: &Value) -> Result<Word, String> {
    match word {
        Value::String(text) => Ok(Word::Is(text.clone())),
        Value::Object(object) if object.len() == 1 => match object.get("prefix") {
            Some(Value::String(prefix)) => Ok(Word::Prefix(prefix.clone())),
            _ => Err(format!("`{word}` of the pattern is not understood")),
        },
        _ => Err(format!("`{word}` of the pattern is not understood")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_matches_in_all_that_the_pattern_names() {
        let pattern = r#"{"eventName": ["INSERT", "MODIFY"],
            "dynamodb": {"Keys": {"alert_log": {"S": [{"prefix": "channel#"}]}}}}"#;
        let filter = Filter::parse(pattern).expect("a pattern");
        let record = |name: &str, log: Value| json!({ "eventName": name, "dynamodb": { "Keys": { "alert_log": log } } });
        assert!(filter.matches(&record("INSERT", json!({ "S": "channel#7" }))));
        assert!(filter.matches(&record("MODIFY", json!({ "S": "channel#" }))));
        assert!(!filter.matches(&record("REMOVE", json!({ "S": "channel#7" }))));
        assert!(!filter.matches(&record("INSERT", json!({ "S": "alerts" }))));
        assert!(!filter.matches(&record("INSERT", json!({ "N": "7" }))));
        assert!(!filter.matches(&json!({})));
        assert!(Filter::parse("{}").expect("a pattern").matches(&json!({})), "which asks for nothing");
    }

    #[test]
    fn a_word_that_is_not_understood_is_an_error() {
        for (pattern, problem) in [
            (r#"{"eventName": "INSERT"}"#, "`\"INSERT\"` of the pattern is not understood"),
            (r#"{"eventName": []}"#, "`[]` of the pattern is not understood"),
            (r#"{"eventName": [{"suffix": "T"}]}"#, "`{\"suffix\":\"T\"}` of the pattern is not understood"),
            (r#"{"eventName": [{"prefix": 1}]}"#, "`{\"prefix\":1}` of the pattern is not understood"),
            (r#"{"event": ["INSERT"]}"#, "`event` of a record is not understood"),
            (
                r#"{"dynamodb": {"Key": {"a": {"S": ["b"]}}}}"#,
                "`dynamodb.Key.a.S` of a record is not understood",
            ),
            (
                "[]",
                "the pattern is no JSON object: invalid type: sequence, expected a map at line 1 column 0",
            ),
        ] {
            assert_eq!(Filter::parse(pattern), Err(problem.to_owned()), "{pattern}");
        }
    }
}
