//! Operator and enrollment tokens: their row, and what is asked for when one is minted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::agent::AgentId;
use crate::domain::credential::{KeyDigest, Token, TokenKind};
use crate::time::Timestamp;
use crate::wire::error::{ErrorKind, Invalid};
use crate::wire::json::Object;

/// Said of a one-off token that has let in its agent.
pub const TOKEN_USED_UP: &str = "the enrollment token is used up";

/// A row of the `tokens` table. It holds the digest, never the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Derived from the token's key id; public.
    pub token_id: Uuid,
    /// What it may do.
    pub token_kind: TokenKind,
    /// The token's digest.
    pub token_digest: KeyDigest,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The only board it lets agents into; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<Uuid>,
    /// Whether it lets in more than one agent.
    pub reusable: bool,
    /// Whether the agents it creates are active at once.
    pub pre_approved: bool,
    /// Whose names its agents have: its own id, or that of the token it succeeds.
    pub enrollment_namespace: String,
    /// When it was minted.
    pub created_at: Timestamp,
    /// When it ends. An enrollment token then lets nobody in, but still beats for the agents it made.
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
    /// It is for another board.
    pub fn admit(&self, board_id: Option<Uuid>) -> Result<(), ErrorKind> {
        match (self.board_id, board_id) {
            (Some(own), Some(asked)) if own != asked => {
                Err(ErrorKind::Forbidden("the enrollment token is for another board"))
            }
            _ => Ok(()),
        }
    }

    /// Why the token lets no new agent in, if so. It still beats for those that it made.
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
    /// `board_id`; `None` with `all_boards`.
    pub board_id: Option<Uuid>,
    /// `reusable`.
    pub reusable: bool,
    /// `approved`.
    pub pre_approved: bool,
    /// `succeeds`: the id of an older enrollment token, whose namespace this one continues.
    pub succeeds: Option<Uuid>,
}

impl TokenRequest {
    const DAY: u64 = 24 * 60 * 60;
    const LONGEST_LIFETIME: u64 = 3650 * Self::DAY;

    /// An operator's token with the default lifetime.
    #[must_use]
    pub fn operator(label: &str) -> Self {
        Self {
            kind: TokenKind::Operator,
            label: Some(label.to_owned()),
            lifetime: Self::default_lifetime(TokenKind::Operator),
            board_id: None,
            reusable: true,
            pre_approved: true,
            succeeds: None,
        }
    }

    const fn default_lifetime(kind: TokenKind) -> Duration {
        match kind {
            TokenKind::Operator => Duration::from_secs(90 * Self::DAY),
            TokenKind::Enrollment => Duration::from_secs(30 * Self::DAY),
        }
    }

    /// Reads and checks a request.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn parse(body: &Object<'_>) -> Result<Self, Invalid> {
        let kind = match body.string("kind")?.as_deref() {
            Some("operator") => TokenKind::Operator,
            Some("enrollment") => TokenKind::Enrollment,
            _ => return Err(body.invalid("kind", "must be 'operator' or 'enrollment'")),
        };
        let label = body.string("label")?;
        if label
            .as_deref()
            .is_some_and(|label| label.chars().count() > 100 || label.chars().any(char::is_control))
        {
            return Err(
                body.invalid("label", "must have at most 100 characters, none of them control characters")
            );
        }
        let lifetime = match body.whole_number("expires_in_seconds")? {
            None => Self::default_lifetime(kind),
            Some(seconds) if (1..=Self::LONGEST_LIFETIME).contains(&seconds) => Duration::from_secs(seconds),
            Some(_) => return Err(body.invalid("expires_in_seconds", "must be 1 to 315360000 seconds")),
        };
        let board_id = body.uuid("board_id")?;
        let all_boards = body.boolean("all_boards")?.unwrap_or(false);
        match kind {
            TokenKind::Enrollment if board_id.is_some() == all_boards => {
                return Err(
                    body.invalid("board_id", "an enrollment token needs either board_id or all_boards: true")
                );
            }
            TokenKind::Operator if board_id.is_some() => {
                return Err(body.invalid("board_id", "an operator token is not bound to a board"));
            }
            _ => {}
        }
        let succeeds = body.uuid("succeeds")?;
        if succeeds.is_some() && kind == TokenKind::Operator {
            return Err(body.invalid("succeeds", "only an enrollment token succeeds another"));
        }
        Ok(Self {
            kind,
            label,
            lifetime,
            board_id,
            reusable: body.boolean("reusable")?.unwrap_or(true),
            pre_approved: body.boolean("approved")?.unwrap_or(true),
            succeeds,
        })
    }

    /// The row of `token`, minted now as this request asks. `namespace` is that of the token it succeeds.
    #[must_use]
    pub fn row(&self, token: &Token, namespace: Option<String>, now: Timestamp) -> TokenRow {
        let valid_until = now.plus(self.lifetime);
        TokenRow {
            token_id: token.token_id(),
            token_kind: self.kind,
            token_digest: token.digest(),
            label: self.label.clone(),
            board_id: self.board_id,
            reusable: self.reusable,
            pre_approved: self.pre_approved,
            enrollment_namespace: namespace.unwrap_or_else(|| token.token_id().to_string()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<TokenRequest, String> {
        let object = Object::parse(body.as_bytes()).unwrap();
        TokenRequest::parse(&object).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_request_names_the_field_that_breaks_its_rule() {
        for (body, field) in [
            ("{}", "kind"),
            (r#"{"kind": "root"}"#, "kind"),
            (r#"{"kind": "enrollment"}"#, "board_id"),
            (r#"{"kind": "enrollment", "board_id": "x"}"#, "board_id"),
            (r#"{"kind": "operator", "expires_in_seconds": 0}"#, "expires_in_seconds"),
            (r#"{"kind": "operator", "label": 7}"#, "label"),
            (r#"{"kind": "enrollment", "all_boards": "yes"}"#, "all_boards"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.starts_with(&format!("{field}: ")), "{body}: {error}");
        }
    }

    #[test]
    fn tokens_last_30_or_90_days_unless_asked_otherwise() {
        let enrollment = parse(r#"{"kind": "enrollment", "all_boards": true}"#).unwrap();
        assert_eq!(enrollment.lifetime, Duration::from_hours(30 * 24));
        assert_eq!(parse(r#"{"kind": "operator"}"#).unwrap().lifetime, Duration::from_hours(90 * 24));
    }

    #[test]
    fn dynamodb_removes_operator_tokens_only() {
        let now = Timestamp::from_millis(0);
        let mint = |body: &str| {
            let request = parse(body).unwrap();
            request.row(&Token::generate(request.kind), None, now).expires_at
        };
        assert_eq!(mint(r#"{"kind": "operator", "expires_in_seconds": 60}"#), Some(60));
        assert_eq!(mint(r#"{"kind": "enrollment", "all_boards": true}"#), None);
    }
}
