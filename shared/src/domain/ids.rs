//! Ids of what several parts of the domain speak of. Agents' rows hold theirs as Binary of 16 bytes, where their text would
//! take 36.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// The id of a board: a group of agents, which Mission Control names. Any UUID is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoardId(Uuid);

impl BoardId {
    /// The board of this id.
    #[must_use]
    pub const fn of(id: Uuid) -> Self {
        Self(id)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for BoardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an operator's or an enrollment token: derived from its key id, and public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(Uuid);

impl TokenId {
    /// The token of this id.
    #[must_use]
    pub const fn of(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an event: a `UUIDv7`, so that ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// The event of this id.
    #[must_use]
    pub const fn of(id: Uuid) -> Self {
        Self(id)
    }

    /// Reads the id of an event's row; `None` if it is no UUID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose names these are: the enrollment token that creates agents by heartbeat (or the token that it succeeds), or all
/// operators together.
///
/// Always 16 bytes, so that a condition compares one type: a token's id, or for the operators the nil UUID. No token has
/// that id, since theirs are of version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceId(Uuid);

impl NamespaceId {
    /// The one namespace of all operators.
    pub const OPERATORS: Self = Self(Uuid::nil());

    /// The namespace that begins with this enrollment token.
    #[must_use]
    pub const fn of_token(token_id: TokenId) -> Self {
        Self(token_id.0)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

/// The text from which the ids of names are derived: `operator`, or the token's id.
impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::OPERATORS { f.write_str("operator") } else { self.0.fmt(f) }
    }
}

impl Serialize for NamespaceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de> Deserialize<'de> for NamespaceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(Self)
    }
}

/// For `#[serde(with)]`: a board, or none.
pub(crate) mod board {
    use super::{BoardId, Bytes, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(
        board_id: &Option<BoardId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match board_id {
            Some(board_id) => serializer.serialize_bytes(board_id.as_bytes()),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<BoardId>, D::Error> {
        struct Board;

        impl<'de> de::Visitor<'de> for Board {
            type Value = Option<BoardId>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("16 bytes, or nothing")
            }

            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_bytes(Bytes).map(|id| Some(BoardId(id)))
            }
        }

        deserializer.deserialize_option(Board)
    }
}

struct Bytes;

impl de::Visitor<'_> for Bytes {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("16 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Uuid, E> {
        Uuid::from_slice(bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}
