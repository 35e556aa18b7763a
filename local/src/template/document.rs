//! The template as a tree whose nodes know their lines, with intrinsic functions in one form.

use std::fmt;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::Problem;

/// A value of the template and the line on which it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A scalar, numbers and booleans included: what it stands for is for its reader to say.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// An intrinsic function and what it is applied to.
    Call(Intrinsic, Box<Node>),
}

/// One `name: value` of a map; `line` is that of the name.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

/// The intrinsic functions that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intrinsic {
    And,
    Condition,
    Equals,
    GetAtt,
    If,
    Join,
    Not,
    Or,
    Ref,
    Select,
    Split,
    Sub,
}

const INTRINSICS: [(&str, Intrinsic); 12] = [
    ("And", Intrinsic::And),
    ("Condition", Intrinsic::Condition),
    ("Equals", Intrinsic::Equals),
    ("GetAtt", Intrinsic::GetAtt),
    ("If", Intrinsic::If),
    ("Join", Intrinsic::Join),
    ("Not", Intrinsic::Not),
    ("Or", Intrinsic::Or),
    ("Ref", Intrinsic::Ref),
    ("Select", Intrinsic::Select),
    ("Split", Intrinsic::Split),
    ("Sub", Intrinsic::Sub),
];

impl Intrinsic {
    fn named(name: &str) -> Option<Self> {
        INTRINSICS.iter().find(|(known, _)| *known == name).map(|(_, intrinsic)| *intrinsic)
    }

    /// The long form's name: `Ref`, or `Fn::` and the function. (`Condition` has one too, but a map with that
    /// single key may just as well be something else; conditions read it themselves.)
    fn named_long(name: &str) -> Option<Self> {
        match name.strip_prefix("Fn::") {
            Some("Ref" | "Condition") => None,
            Some(function) => Self::named(function),
            None => (name == "Ref").then_some(Self::Ref),
        }
    }
}

impl fmt::Display for Intrinsic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = INTRINSICS.iter().find(|(_, known)| known == self).map_or("", |(name, _)| name);
        write!(f, "!{name}")
    }
}

impl Node {
    /// Parses a YAML document.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let documents = MarkedYaml::load_from_str(text)
            .map_err(|error| Problem::new(error.marker().line(), error.info()))?;
        match documents.as_slice() {
            [document] => Self::from_yaml(document, 1),
            _ => Err(Problem::new(1, "one YAML document is expected")),
        }
    }

    /// `line` is that of the tag, or of the key: a tagged scalar has no line of its own in the parser's tree.
    fn from_yaml(yaml: &MarkedYaml<'_>, line: usize) -> Result<Self, Problem> {
        let line = if yaml.span.start.line() == 0 { line } else { yaml.span.start.line() };
        let value = match &yaml.data {
            YamlData::Value(scalar) => Value::Text(text_of(scalar, line)?),
            YamlData::Sequence(items) => {
                Value::List(items.iter().map(|item| Self::from_yaml(item, line)).collect::<Result<_, _>>()?)
            }
            YamlData::Mapping(pairs) => {
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let key = Self::from_yaml(key, line)?;
                    entries.push(Entry {
                        name: key.text()?.to_owned(),
                        line: key.line,
                        node: Self::from_yaml(value, key.line)?,
                    });
                }
                long_form(entries)?
            }
            YamlData::Tagged(tag, inner) => match Intrinsic::named(&tag.suffix) {
                Some(intrinsic) if tag.handle == "!" => {
                    Value::Call(intrinsic, Box::new(Self::from_yaml(inner, line)?))
                }
                _ => return Err(Problem::not_understood(line, &format!("`{}{}`", tag.handle, tag.suffix))),
            },
            YamlData::Representation(..) | YamlData::Alias(_) | YamlData::BadValue => {
                return Err(Problem::new(line, "this value is not understood"));
            }
        };
        Ok(Self { line, value })
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.line, message)
    }

    pub(super) fn text(&self) -> Result<&str, Problem> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.unexpected("a text")),
        }
    }

    /// A whole number from `least` up.
    pub(super) fn number(&self, least: u64) -> Result<u64, Problem> {
        let text = self.text()?;
        match text.parse() {
            Ok(number) if number >= least => Ok(number),
            _ => Err(self.problem(format!("`{text}` is not a whole number from {least} up"))),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, Problem> {
        let text = self.text()?;
        text.parse().map_err(|_| self.problem(format!("`{text}` is neither true nor false")))
    }

    /// A text that must be one of those given.
    pub(super) fn one_of(&self, choices: &[&str]) -> Result<String, Problem> {
        let text = self.text()?;
        if choices.contains(&text) {
            Ok(text.to_owned())
        } else {
            Err(self.problem(format!("`{text}` is not understood; expected {}", choices.join(", "))))
        }
    }

    pub(super) fn list(&self) -> Result<&[Self], Problem> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.unexpected("a list")),
        }
    }

    pub(super) fn texts(&self) -> Result<Vec<String>, Problem> {
        self.list()?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    pub(super) fn entries(&self) -> Result<&[Entry], Problem> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.unexpected("a map")),
        }
    }

    /// The entries of a map that has no others than the `known` ones.
    pub(super) fn fields<'a>(&'a self, of: &'a str, known: &[&[&str]]) -> Result<Fields<'a>, Problem> {
        let entries = self.entries()?;
        match entries.iter().find(|entry| !known.iter().any(|names| names.contains(&entry.name.as_str()))) {
            Some(entry) => Err(Problem::not_understood(entry.line, &format!("`{}` of {of}", entry.name))),
            None => Ok(Fields { of, line: self.line, entries }),
        }
    }

    fn unexpected(&self, expected: &str) -> Problem {
        let found = match &self.value {
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Call(intrinsic, _) => {
                return self.problem(format!("{expected} is expected here; {intrinsic} is not understood"));
            }
        };
        self.problem(format!("{expected} is expected here, not {found}"))
    }
}

/// The entries of a map that was checked for unknown ones.
pub(super) struct Fields<'a> {
    of: &'a str,
    line: usize,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.node)
    }

    pub(super) fn require(&self, name: &str) -> Result<&'a Node, Problem> {
        self.get(name).ok_or_else(|| Problem::new(self.line, format!("{} needs `{name}`", self.of)))
    }
}

fn text_of(scalar: &Scalar<'_>, line: usize) -> Result<String, Problem> {
    match scalar {
        Scalar::Null => Err(Problem::new(line, "a value is missing")),
        Scalar::Boolean(flag) => Ok(flag.to_string()),
        Scalar::Integer(number) => Ok(number.to_string()),
        Scalar::FloatingPoint(number) => Ok(number.to_string()),
        Scalar::String(text) => Ok(text.clone().into_owned()),
    }
}

/// `{Ref: x}` and `{Fn::If: […]}` are calls; every other map is a map.
fn long_form(mut entries: Vec<Entry>) -> Result<Value, Problem> {
    let Some(function) =
        entries.iter().position(|entry| entry.name == "Ref" || entry.name.starts_with("Fn::"))
    else {
        return Ok(Value::Map(entries));
    };
    let Entry { name, line, node } = entries.swap_remove(function);
    match Intrinsic::named_long(&name) {
        Some(intrinsic) if entries.is_empty() => Ok(Value::Call(intrinsic, Box::new(node))),
        Some(_) => Err(Problem::new(line, format!("`{name}` must be the only key of its map"))),
        None => Err(Problem::not_understood(line, &format!("`{name}`"))),
    }
}
