//! What is asked for when a token is minted: `POST /api/v1/tokens`, and the input of `mint-token`.

use std::time::Duration;

use super::error::Invalid;
use super::json::Object;
use crate::domain::credential::TokenKind;
use crate::domain::ids::{BoardId, TokenId};
use crate::domain::token::{Role, TokenRequest};

/// Reads and checks a request.
///
/// # Errors
/// Names the field that breaks its rule.
///
/// `own_board` is that of the operator who asks: a token that names none is then for it.
pub fn token_request(body: &Object<'_>, own_board: Option<BoardId>) -> Result<TokenRequest, Invalid> {
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
        None => TokenRequest::default_lifetime(kind),
        Some(seconds) if (1..=TokenRequest::LONGEST_LIFETIME).contains(&seconds) => {
            Duration::from_secs(seconds)
        }
        Some(_) => return Err(body.invalid("expires_in_seconds", "must be 1 to 315360000 seconds")),
    };
    let all_boards = body.boolean("all_boards")?.unwrap_or(false);
    let board_id = body.uuid("board_id")?.map(BoardId::of).or(own_board.filter(|_| !all_boards));
    match kind {
        TokenKind::Enrollment if board_id.is_some() == all_boards => {
            return Err(
                body.invalid("board_id", "an enrollment token needs either board_id or all_boards: true")
            );
        }
        TokenKind::Operator if board_id.is_some() && all_boards => {
            return Err(body.invalid("board_id", "must not come together with all_boards"));
        }
        _ => {}
    }
    let role = match (kind, body.string("role")?.as_deref()) {
        (TokenKind::Operator, None | Some("operator")) => Some(Role::Operator),
        (TokenKind::Operator, Some("viewer")) => Some(Role::Viewer),
        (TokenKind::Enrollment, None) => None,
        (TokenKind::Operator, Some(_)) => return Err(body.invalid("role", "must be 'operator' or 'viewer'")),
        (TokenKind::Enrollment, Some(_)) => {
            return Err(body.invalid("role", "only an operator token has a role"));
        }
    };
    let succeeds = body.uuid("succeeds")?.map(TokenId::of);
    if succeeds.is_some() && kind == TokenKind::Operator {
        return Err(body.invalid("succeeds", "only an enrollment token succeeds another"));
    }
    Ok(TokenRequest {
        kind,
        label,
        lifetime,
        role,
        board_id,
        reusable: body.boolean("reusable")?.unwrap_or(true),
        pre_approved: body.boolean("approved")?.unwrap_or(true),
        succeeds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credential::Token;
    use crate::time::Timestamp;

    fn parse(body: &str) -> Result<TokenRequest, String> {
        let object = Object::parse(body.as_bytes()).unwrap();
        token_request(&object, None).map_err(|invalid| invalid.to_string())
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
