//! Enrollment tokens that an environment remembers, so that a steady heartbeat under one reads nothing.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::domain::credential::Token;
use crate::domain::ids::TokenId;
use crate::domain::token::TokenRow;
use crate::time::Timestamp;

/// How many tokens are remembered; the least recently used are forgotten first.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// How long a token's deletion may take to end its heartbeats. Creation never relies on this memory.
const REMEMBERED_FOR: Duration = Duration::from_mins(1);

/// The enrollment tokens of one environment, bounded.
#[derive(Debug)]
pub struct TokenCache {
    rows: Mutex<LruCache<TokenId, (TokenRow, Timestamp)>>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self { rows: Mutex::new(LruCache::new(CAPACITY)) }
    }
}

impl TokenCache {
    /// The row of `token`, if it was read less than a minute ago.
    #[must_use]
    pub fn get(&self, token: &Token, now: Timestamp) -> Option<TokenRow> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let (row, read_at) = rows.get(&token.token_id())?;
        (row.is_of(token) && now.since(*read_at) < REMEMBERED_FOR).then(|| row.clone())
    }

    /// Remembers a row that was just read.
    pub fn insert(&self, token: &Token, row: &TokenRow, now: Timestamp) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.put(token.token_id(), (row.clone(), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credential::TokenKind;
    use crate::domain::token::TokenRequest;

    #[test]
    fn a_token_is_remembered_for_less_than_a_minute_and_only_for_its_own_secret() {
        let (memory, now) = (TokenCache::default(), Timestamp::from_millis(0));
        let token = Token::generate(TokenKind::Enrollment);
        let row = TokenRequest::operator("any").row(&token, None, now);
        let row = TokenRow { token_kind: TokenKind::Enrollment, ..row };
        memory.insert(&token, &row, now);
        assert_eq!(memory.get(&token, now.plus(Duration::from_millis(59_999))), Some(row));
        assert_eq!(memory.get(&token, now.plus(REMEMBERED_FOR)), None);
        assert_eq!(memory.get(&Token::generate(TokenKind::Enrollment), now), None);
    }
}
