//! Who is calling: the steps by which endpoints know agents, operators and enrollment tokens.

use lambda_http::http::HeaderMap;
use tracing::warn;

use super::app::App;
use super::refusal_cache::CachedRefusal;
use crate::domain::agent::{Agent, AgentId, AgentState};
use crate::domain::change::Changed;
use crate::domain::check_in::{Call, Caller, CheckIn};
use crate::domain::credential::{ApiKey, Credential, Token, TokenKind};
use crate::domain::event::Actor;
use crate::domain::ids::BoardId;
use crate::domain::rate_limit::Quota;
use crate::domain::token::{OTHER_BOARD, Operator, Role, TokenRow};
use crate::time::Timestamp;
use crate::wire::credentials::{self, CredentialProblem};
use crate::wire::error::{ApiError, ErrorKind, Invalid};

/// No agent has this key.
pub const UNKNOWN_KEY: ErrorKind = ErrorKind::Unauthorized("unknown API key");
/// There is no agent with this id.
pub const NO_SUCH_AGENT: ErrorKind = ErrorKind::NotFound("no such agent");

impl App {
    /// Authenticates, rate limits and renews the lease of the agent that is there.
    ///
    /// # Errors
    /// Without such an agent 401 for a key and 404 for an operator's path; 401 or 403 for one that is not
    /// active, 403 in another namespace, 429 over the limit, 503 without a database.
    pub async fn check_in(
        &self,
        caller: &Caller,
        call: Call,
        now: Timestamp,
    ) -> Result<(Box<Agent>, Quota), ApiError> {
        let checked_in = self.check_in_if_known(caller, call, now).await?;
        checked_in.ok_or_else(|| match caller {
            Caller::Key(_) => UNKNOWN_KEY.into(),
            Caller::Namespace { .. } | Caller::Operator { .. } => NO_SUCH_AGENT.into(),
        })
    }

    /// As [`App::check_in`], where `None` says that there is no such agent.
    ///
    /// # Errors
    /// As [`App::check_in`].
    pub async fn check_in_if_known(
        &self,
        caller: &Caller,
        call: Call,
        now: Timestamp,
    ) -> Result<Option<(Box<Agent>, Quota)>, ApiError> {
        match self.refusals.of_caller(caller, call.policy(), now) {
            Some(CachedRefusal::OverLimit(quota)) => return Err(ApiError::rate_limited(quota)),
            Some(CachedRefusal::Unknown) => return Ok(None),
            None => {}
        }
        match self.store.check_in(caller, call, now).await? {
            CheckIn::Accepted(agent, quota) => Ok(Some((agent, quota))),
            CheckIn::Overtaken => Err(ErrorKind::Overtaken.into()),
            CheckIn::Inactive(state) => Err(ErrorKind::Inactive(state).into()),
            CheckIn::Foreign => Err(ErrorKind::Forbidden("the agent belongs to another namespace").into()),
            CheckIn::OverLimit(quota) => {
                self.refusals.over_limit(caller, quota);
                Err(ApiError::rate_limited(quota))
            }
            CheckIn::Unknown => {
                if let Caller::Key(key) = caller {
                    self.refusals.unknown_key(key, now);
                }
                Ok(None)
            }
        }
    }

    /// The operator who is calling and may change everything, by `Authorization: Bearer`: one read, and one write an
    /// hour. What belongs to boards is for [`App::operator_within`], what is only shown for [`App::viewer`].
    ///
    /// # Errors
    /// 401 without a valid operator token, 403 with a viewer's, one for a board alone, or a credential of another kind,
    /// 503 without a database.
    pub async fn operator(&self, headers: &HeaderMap, now: Timestamp) -> Result<Actor, ApiError> {
        let operator = self.operator_within(headers, now).await?;
        reach(operator, None)?;
        Ok(operator.actor())
    }

    /// The operator who is calling and may change what its token reaches: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 without a valid operator token, 403 with a viewer's or a credential of another kind, 503 without a database.
    pub async fn operator_within(&self, headers: &HeaderMap, now: Timestamp) -> Result<Operator, ApiError> {
        let row = self.operator_row(&credentials::operator_token(headers)?, now).await?;
        Ok(row.operator())
    }

    /// The operator or viewer who is calling and may see what its token reaches: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 without a valid operator token, 403 with a credential of another kind, 503 without a database.
    pub async fn viewer(&self, headers: &HeaderMap, now: Timestamp) -> Result<Operator, ApiError> {
        let row = self.viewer_row(&credentials::operator_token(headers)?, now).await?;
        Ok(row.operator())
    }

    /// The row of a valid operator token of either role, whose use is noted: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 if the token is unknown, expired or deleted, 503 without a database.
    pub async fn viewer_row(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.row_of_either_role(token, now).await?;
        self.note_use(&row, false, now).await;
        Ok(row)
    }

    /// The row of a valid operator token that may change something, whose use is noted: one read, and one write an hour.
    ///
    /// # Errors
    /// 401 if the token is unknown, expired or deleted, 403 if it is a viewer's, 503 without a database.
    pub async fn operator_row(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.operator_row_unnoted(token, now).await?;
        self.note_use(&row, false, now).await;
        Ok(row)
    }

    /// The same, whose use is not noted: one read.
    ///
    /// # Errors
    /// As [`App::operator_row`].
    pub async fn operator_row_unnoted(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.row_of_either_role(token, now).await?;
        match row.role {
            Some(Role::Viewer) => Err(ErrorKind::Forbidden("a viewer's token changes nothing").into()),
            _ => Ok(row),
        }
    }

    async fn row_of_either_role(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        let row = self.store.token(token).await?;
        let row = row.filter(|row| row.token_kind == TokenKind::Operator && row.is_valid(now));
        row.ok_or_else(|| ErrorKind::Unauthorized("unknown or expired operator token").into())
    }

    /// Notes a token's use. The request that used it does not fail for this.
    pub async fn note_use(&self, row: &TokenRow, created: bool, now: Timestamp) {
        if let Err(error) = self.store.note_token_use(row, created, now).await {
            warn!(cause = %error, token_id = %row.token_id, "a token's use was not noted");
        }
    }

    /// The agent whose key this is, by a read that renews nothing and is not counted.
    ///
    /// # Errors
    /// 401 for an unknown key, 401 or 403 for an agent that is not active, 503 without a database.
    pub async fn agent_of_key(&self, key: &ApiKey, now: Timestamp) -> Result<Agent, ApiError> {
        match self.store.agent(AgentId::of_key(key), now).await? {
            Some(agent) if !agent.accepts(&key.digest(), now) => Err(UNKNOWN_KEY.into()),
            None => Err(UNKNOWN_KEY.into()),
            Some(agent) if agent.agent_state != AgentState::Active => {
                Err(ErrorKind::Inactive(agent.agent_state).into())
            }
            Some(agent) => Ok(agent),
        }
    }

    /// An agent that must exist.
    ///
    /// # Errors
    /// 404 if it does not, 503 without a database.
    pub async fn existing(&self, agent_id: AgentId, now: Timestamp) -> Result<Agent, ApiError> {
        self.store.agent(agent_id, now).await?.ok_or_else(|| NO_SUCH_AGENT.into())
    }

    /// The agent of a path, for an operator or for the agent itself.
    ///
    /// # Errors
    /// 401 without a valid credential, 422 for a path without a UUID, 404 without such an agent, 403 for
    /// another agent or kind of credential, 503 without a database.
    pub async fn readable_agent(
        &self,
        headers: &HeaderMap,
        agent_id: impl FnOnce() -> Result<AgentId, Invalid>,
        now: Timestamp,
    ) -> Result<Agent, ApiError> {
        match credentials::credential(headers)? {
            Credential::Token(token) if token.kind() == TokenKind::Operator => {
                let viewer = self.viewer_row(&token, now).await?.operator();
                let agent = self.existing(agent_id()?, now).await?;
                reach(viewer, agent.board_id)?;
                Ok(agent)
            }
            Credential::Token(_) => Err(CredentialProblem::WrongKind.into()),
            Credential::Agent(key) => {
                let agent = self.agent_of_key(&key, now).await?;
                self.only_itself(&agent, agent_id()?, now).await?;
                Ok(agent)
            }
        }
    }

    /// Refuses an agent that means another one.
    ///
    /// # Errors
    /// 404 if there is no such other, else 403; 503 without a database.
    pub async fn only_itself(&self, agent: &Agent, meant: AgentId, now: Timestamp) -> Result<(), ApiError> {
        if agent.agent_id == meant {
            return Ok(());
        }
        self.existing(meant, now).await?;
        Err(ErrorKind::Forbidden("this key is another agent's").into())
    }

    /// The row of the enrollment token that lets an agent in to this board: one read.
    ///
    /// # Errors
    /// 401 for an unknown, expired or used-up token, 403 if it is for another board, 503 without a database.
    pub async fn token_for_registration(
        &self,
        token: &Token,
        board_id: Option<BoardId>,
        now: Timestamp,
    ) -> Result<TokenRow, ApiError> {
        let row = self.current_token(token).await?;
        row.admit(board_id).map_err(ErrorKind::Forbidden)?;
        match row.bars_creation(None, now) {
            Some(why) => Err(ErrorKind::Unauthorized(why).into()),
            None => Ok(row),
        }
    }

    /// The row of an enrollment token: one read, remembered for at most a minute.
    ///
    /// # Errors
    /// 401 if the token is unknown or deleted, 503 without a database.
    pub async fn cached_token(&self, token: &Token, now: Timestamp) -> Result<TokenRow, ApiError> {
        if let Some(row) = self.enrollment_tokens.get(token, now) {
            return Ok(row);
        }
        let row = self.current_token(token).await?;
        self.note_use(&row, false, now).await;
        self.enrollment_tokens.insert(token, &row, now);
        Ok(row)
    }

    /// The row of an enrollment token as it is now: creation is decided by nothing older.
    ///
    /// # Errors
    /// As [`App::cached_token`].
    pub async fn current_token(&self, token: &Token) -> Result<TokenRow, ApiError> {
        let row = self.store.token(token).await?;
        row.ok_or_else(|| ErrorKind::Unauthorized("unknown enrollment token").into())
    }
}

/// Refuses an operator to whom this board's things are out of reach; `None` are those of no board.
///
/// # Errors
/// 403.
pub fn reach(operator: Operator, board_id: Option<BoardId>) -> Result<(), ErrorKind> {
    if operator.reaches(board_id) { Ok(()) } else { Err(ErrorKind::Forbidden(OTHER_BOARD)) }
}

/// What a change came to, as an answer.
///
/// # Errors
/// 404 without such an agent, 403 if it is of a board that the operator does not reach, 409 if its state does not allow it or somebody else was faster.
pub fn into_result<T>(changed: Changed<T>) -> Result<T, ErrorKind> {
    match changed {
        Changed::Done(done) => Ok(done),
        Changed::NoSuchAgent => Err(NO_SUCH_AGENT),
        Changed::Foreign => Err(ErrorKind::Forbidden(OTHER_BOARD)),
        Changed::Refused(why) => Err(ErrorKind::Conflict(why)),
        Changed::Overtaken => Err(ErrorKind::Conflict("somebody else changed the agent at the same time")),
    }
}
