//! Who is calling, as far as the request alone tells: no database is asked here.

use lambda_http::http::HeaderMap;
use lambda_http::http::header::AUTHORIZATION;

use crate::domain::credential::{ApiKey, Credential, Token, TokenKind};
use crate::wire::error::ErrorKind;

/// Mission Control's header. It may carry an API key or an enrollment token.
pub const X_AGENT_TOKEN: &str = "x-agent-token";

/// Why a request names no usable caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialProblem {
    /// There is no credential where this route looks for one.
    Missing,
    /// There is one, and it has no credential's form.
    Malformed,
    /// There is a well-formed credential of another kind.
    WrongKind,
}

impl From<CredentialProblem> for ErrorKind {
    fn from(problem: CredentialProblem) -> Self {
        match problem {
            CredentialProblem::Missing => Self::Unauthorized("a credential is required"),
            CredentialProblem::Malformed => Self::Unauthorized("the credential is malformed"),
            CredentialProblem::WrongKind => Self::Forbidden("this route needs another kind of credential"),
        }
    }
}

/// What stands in a header: nothing, a credential, or something that is none.
type Presented = Result<Credential, CredentialProblem>;

fn x_agent_token(headers: &HeaderMap) -> Presented {
    let value = headers.get(X_AGENT_TOKEN).ok_or(CredentialProblem::Missing)?;
    match value.to_str().map(str::trim) {
        Ok("") => Err(CredentialProblem::Missing),
        Ok(text) => Credential::parse(text).ok_or(CredentialProblem::Malformed),
        Err(_) => Err(CredentialProblem::Malformed),
    }
}

/// Another scheme than `Bearer` is somebody else's business and counts as no credential.
fn bearer(headers: &HeaderMap) -> Presented {
    let value = headers.get(AUTHORIZATION).ok_or(CredentialProblem::Missing)?;
    let text = value.to_str().map_err(|_| CredentialProblem::Malformed)?.trim();
    let (scheme, credential) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(CredentialProblem::Missing);
    }
    Credential::parse(credential.trim()).ok_or(CredentialProblem::Malformed)
}

fn as_agent(credential: Credential) -> Result<ApiKey, CredentialProblem> {
    match credential {
        Credential::Agent(key) => Ok(key),
        Credential::Token(_) => Err(CredentialProblem::WrongKind),
    }
}

fn as_token(credential: Credential, kind: TokenKind) -> Result<Token, CredentialProblem> {
    match credential {
        Credential::Token(token) if token.kind() == kind => Ok(token),
        _ => Err(CredentialProblem::WrongKind),
    }
}

/// The agent's key in the envelope's contract: `X-Agent-Token`, else `Authorization: Bearer`, else the body's
/// `apiKey`. A Bearer that is no agent's key leaves the way free for the body's: an operator may send both.
///
/// # Errors
/// No place holds an API key.
pub fn agent_key(headers: &HeaderMap, in_body: Option<ApiKey>) -> Result<ApiKey, CredentialProblem> {
    match x_agent_token(headers) {
        Err(CredentialProblem::Missing) => {}
        presented => return presented.and_then(as_agent),
    }
    match (bearer(headers).and_then(as_agent), in_body) {
        (Ok(key), _) | (Err(_), Some(key)) => Ok(key),
        (Err(problem), None) => Err(problem),
    }
}

/// The credential of a route that takes several kinds: `X-Agent-Token` if it is not empty, else `Authorization:
/// Bearer`. An operator's token counts only as the latter.
///
/// # Errors
/// There is none, or one of no credential's form or in the wrong place.
pub fn credential(headers: &HeaderMap) -> Result<Credential, CredentialProblem> {
    match x_agent_token(headers) {
        Err(CredentialProblem::Missing) => bearer(headers),
        Ok(Credential::Token(token)) if token.kind() == TokenKind::Operator => {
            Err(CredentialProblem::WrongKind)
        }
        presented => presented,
    }
}

/// The operator's token: `Authorization: Bearer` alone.
///
/// # Errors
/// There is none.
pub fn operator_token(headers: &HeaderMap) -> Result<Token, CredentialProblem> {
    bearer(headers).and_then(|credential| as_token(credential, TokenKind::Operator))
}

/// Whether `Authorization: Bearer` holds what is meant as an operator's approval. An agent's own key there is
/// the agent asking for itself.
#[must_use]
pub fn presents_approval(headers: &HeaderMap) -> bool {
    !matches!(bearer(headers), Err(CredentialProblem::Missing) | Ok(Credential::Agent(_)))
}

/// The enrollment token: `X-Agent-Token`, else `Authorization: Bearer`.
///
/// # Errors
/// There is none.
pub fn enrollment_token(headers: &HeaderMap) -> Result<Token, CredentialProblem> {
    credential(headers).and_then(|credential| as_token(credential, TokenKind::Enrollment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn x_agent_token_wins_over_bearer_and_body() {
        let (first, second, third) = (ApiKey::generate(), ApiKey::generate(), ApiKey::generate());
        let bearer = format!("Bearer {}", second.reveal());
        let both = headers(&[("x-agent-token", &first.reveal()), ("authorization", &bearer)]);
        assert_eq!(agent_key(&both, Some(third.clone())), Ok(first));
        assert_eq!(agent_key(&headers(&[("authorization", &bearer)]), Some(third)), Ok(second));
    }

    #[test]
    fn an_operators_bearer_and_the_bodys_key_come_together() {
        let (operator, key) = (Token::generate(TokenKind::Operator), ApiKey::generate());
        let both = headers(&[("authorization", &format!("bearer  {}", operator.reveal()))]);
        assert_eq!(agent_key(&both, Some(key.clone())), Ok(key));
        assert_eq!(agent_key(&both, None), Err(CredentialProblem::WrongKind));
        assert_eq!(operator_token(&both), Ok(operator));
    }

    #[test]
    fn empty_headers_and_other_schemes_count_as_none() {
        for pair in [("x-agent-token", " "), ("authorization", "Basic YTpi")] {
            assert_eq!(agent_key(&headers(&[pair]), None), Err(CredentialProblem::Missing));
        }
        for pair in
            [("x-agent-token", "nonsense"), ("authorization", "Bearer"), ("authorization", "Bearer x")]
        {
            assert_eq!(agent_key(&headers(&[pair]), None), Err(CredentialProblem::Malformed));
        }
    }

    #[test]
    fn a_credential_of_another_kind_is_not_taken() {
        let key = ApiKey::generate().reveal();
        assert_eq!(enrollment_token(&headers(&[("x-agent-token", &key)])), Err(CredentialProblem::WrongKind));
        assert_eq!(
            operator_token(&headers(&[("authorization", &format!("Bearer {key}"))])),
            Err(CredentialProblem::WrongKind)
        );
        assert_eq!(operator_token(&headers(&[("x-agent-token", &key)])), Err(CredentialProblem::Missing));
    }
}
