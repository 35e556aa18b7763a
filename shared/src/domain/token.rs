//! Operator and enrollment tokens: their row, and what is asked for when one is minted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::agent::AgentId;
use crate::domain::credential::{KeyDigest, Token, TokenKind};
use crate::domain::event::Actor;
use crate::domain::ids::{BoardId, NamespaceId, TokenId};
use crate::time::Timestamp;

/// Said where a token is good for one board, and something of another is meant.
pub const OTHER_BOARD: &str = "the token is for another board";

/// Said of a one-off token that has let in its agent.
pub const TOKEN_USED_UP: &str = "the enrollment token is used up";

/// What an operator's token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See and change.
    Operator,
    /// See, and change nothing.
    Viewer,
}

/// Whoever comes with an operator's token, whatever its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The token's id.
    pub token_id: TokenId,
    /// The board outside of which the token reaches nothing; `None` reaches everything.
    pub board_id: Option<BoardId>,
}

impl Operator {
    /// The name under which what it does is recorded.
    #[must_use]
    pub const fn actor(&self) -> Actor {
        Actor::Operator(self.token_id)
    }

    /// Whether it reaches what belongs to this board, or to none.
    #[must_use]
    pub fn reaches(&self, board_id: Option<BoardId>) -> bool {
        self.board_id.is_none() || self.board_id == board_id
    }
}

/// A row of the `tokens` table. It holds the digest, never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Derived from the token's key id; public.
    pub token_id: TokenId,
    /// What it may do.
    pub token_kind: TokenKind,
    /// The token's digest.
    pub token_digest: KeyDigest,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What an operator's token may do; absent for enrollment tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The only board it lets agents into, or that an operator's token reaches; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// Whether it lets in more than one agent.
    pub reusable: bool,
    /// Whether the agents it creates are active at once.
    pub pre_approved: bool,
    /// Whose names its agents have: its own id, or that of the token it succeeds.
    pub namespace_id: NamespaceId,
    /// When it was minted.
    pub created_at: Timestamp,
    /// When it ends. An enrollment token then lets nobody in, but still sends heartbeats for the agents it made.
    pub valid_until: Timestamp,
    /// The last use, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// Agents that it let in; approximate for reusable tokens.
    #[serde(default)]
    pub uses: u64,
    /// The agent that a one-off token let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<AgentId>,
    /// Epoch seconds at which DynamoDB removes the row. Operator tokens only: an enrollment token's agents
    /// need its row for as long as they live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl TokenRow {
    /// Whether this row is `token`'s own.
    #[must_use]
    pub fn is_of(&self, token: &Token) -> bool {
        self.token_kind == token.kind() && self.token_digest == token.digest()
    }

    /// Whether the token is good for this board; without one, for its own.
    ///
    /// # Errors
    /// It is for another board, in words.
    pub fn admit(&self, board_id: Option<BoardId>) -> Result<(), &'static str> {
        match (self.board_id, board_id) {
            (Some(own), Some(asked)) if own != asked => Err(OTHER_BOARD),
            _ => Ok(()),
        }
    }

    /// Whoever comes with this operator's token.
    #[must_use]
    pub const fn operator(&self) -> Operator {
        Operator { token_id: self.token_id, board_id: self.board_id }
    }

    /// Why the token lets no new agent in, if so. It still sends heartbeats for those that it made.
    #[must_use]
    pub fn bars_creation(&self, agent_id: Option<AgentId>, now: Timestamp) -> Option<&'static str> {
        if !self.is_valid(now) {
            Some("the enrollment token is expired")
        } else if !self.reusable && self.used_by.is_some() && self.used_by != agent_id {
            Some(TOKEN_USED_UP)
        } else {
            None
        }
    }

    /// Whether the token has not ended.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.valid_until > now
    }
}

/// What a token is to be: contract B's `POST /api/v1/tokens`, and the input of `mint-token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// `kind`, required.
    pub kind: TokenKind,
    /// `label`: at most 100 characters.
    pub label: Option<String>,
    /// `expires_in_seconds`: at most ten years.
    pub lifetime: Duration,
    /// `role`, of an operator's token.
    pub role: Option<Role>,
    /// `board_id`; `None` with `all_boards`.
    pub board_id: Option<BoardId>,
    /// `reusable`.
    pub reusable: bool,
    /// `approved`.
    pub pre_approved: bool,
    /// `succeeds`: the id of an older enrollment token, whose namespace this one continues.
    pub succeeds: Option<TokenId>,
}

impl TokenRequest {
    const DAY: u64 = 24 * 60 * 60;
    /// The longest lifetime, in seconds: ten years.
    pub const LONGEST_LIFETIME: u64 = 3650 * Self::DAY;

    /// An operator's token with the default lifetime.
    #[must_use]
    pub fn operator(label: &str) -> Self {
        Self {
            kind: TokenKind::Operator,
            label: Some(label.to_owned()),
            lifetime: Self::default_lifetime(TokenKind::Operator),
            role: Some(Role::Operator),
            board_id: None,
            reusable: true,
            pre_approved: true,
            succeeds: None,
        }
    }

    /// The lifetime of a token that asks for none: 90 days for an operator's, 30 for an enrollment token.
    #[must_use]
    pub const fn default_lifetime(kind: TokenKind) -> Duration {
        match kind {
            TokenKind::Operator => Duration::from_secs(90 * Self::DAY),
            TokenKind::Enrollment => Duration::from_secs(30 * Self::DAY),
        }
    }

    /// The row of `token`, minted now as this request asks. `namespace` is that of the token it succeeds.
    #[must_use]
    pub fn row(&self, token: &Token, namespace: Option<NamespaceId>, now: Timestamp) -> TokenRow {
        let valid_until = now.plus(self.lifetime);
        TokenRow {
            token_id: token.token_id(),
            token_kind: self.kind,
            token_digest: token.digest(),
            label: self.label.clone(),
            role: self.role,
            board_id: self.board_id,
            reusable: self.reusable,
            pre_approved: self.pre_approved,
            namespace_id: namespace.unwrap_or_else(|| NamespaceId::of_token(token.token_id())),
            created_at: now,
            valid_until,
            last_used_at: None,
            uses: 0,
            used_by: None,
            expires_at: (self.kind == TokenKind::Operator).then(|| valid_until.as_seconds()),
        }
    }
}

/// A token that was just minted: the one moment at which it can be shown.
#[derive(Clone, Debug)]
pub struct MintedToken {
    /// The token itself.
    pub token: Token,
    /// Its row.
    pub row: TokenRow,
}
