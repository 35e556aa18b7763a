//! Operator and enrollment tokens.

use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};
use serde_json::json;

use super::{Item, Races, Store, Transaction, Write};
use super::{broken, failure, from_item, moment, number, string, to_item, transact, update};
use crate::domain::change::Changed;
use crate::domain::credential::{Token, TokenKind};
use crate::domain::event::{Actor, Event, EventType, kind};
use crate::domain::failure::StoreError;
use crate::domain::ids::TokenId;
use crate::domain::token::{MintedToken, Operator, TokenRequest, TokenRow};
use crate::time::Timestamp;

/// The index by which tokens are listed, and the one value of its partition key.
const INDEX: &str = "by_age";
const LISTING: &str = "tokens";

const HOUR_MILLIS: i64 = 60 * 60 * 1000;

impl Store {
    /// Mints a token, with its event. `None`: there is no enrollment token that it could succeed.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn mint_token(
        &self,
        request: &TokenRequest,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<MintedToken>, StoreError> {
        let namespace = match request.succeeds {
            None => None,
            Some(token_id) => match self.token_row(token_id).await? {
                Some(older) if older.token_kind == TokenKind::Enrollment => Some(older.namespace_id),
                _ => return Ok(None),
            },
        };
        let mut races = Races::default();
        while races.again().await {
            let token = Token::generate(request.kind);
            let row = request.row(&token, namespace, now);
            let mut item = to_item(&row)?;
            item.insert("listing".to_owned(), string(LISTING));
            let put = Put::builder()
                .table_name(self.tables.tokens.get())
                .set_item(Some(item))
                .condition_expression("attribute_not_exists(token_id)")
                .build()
                .map_err(broken)?;
            let event = self.token_event(&row, kind::TOKEN_CREATED, actor, now);
            let writes = vec![TransactWriteItem::builder().put(put).build(), self.put_event(&event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(Some(MintedToken { token, row })),
                // A key id that is taken: draw again.
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    fn token_event(&self, row: &TokenRow, event_type: EventType, actor: Actor, now: Timestamp) -> Event {
        let payload = json!({
            "kind": row.token_kind,
            "label": row.label,
            "role": row.role,
            "board_id": row.board_id,
            "reusable": row.reusable,
            "approved": row.pre_approved,
            "expires_at": row.valid_until.to_string(),
        });
        self.record(format!("token#{}", row.token_id), event_type, actor, &payload, now)
    }

    /// The row of `token`, if it exists: one consistent read, so that a deleted token ends with the next
    /// request.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn token(&self, token: &Token) -> Result<Option<TokenRow>, StoreError> {
        let row = self.token_row(token.token_id()).await?;
        Ok(row.filter(|row| row.is_of(token)))
    }

    async fn token_row(&self, token_id: TokenId) -> Result<Option<TokenRow>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.tokens.get())
            .key("token_id", string(token_id))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.item.map(from_item::<TokenRow>).transpose()
    }

    /// Notes that a token was used, to the hour: at most one write an hour. `created` counts an agent that it
    /// let in, which is one write each time.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn note_token_use(
        &self,
        row: &TokenRow,
        created: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hour = Timestamp::from_millis(now.as_millis() / HOUR_MILLIS * HOUR_MILLIS);
        if !created && row.last_used_at >= Some(hour) {
            return Ok(());
        }
        let request = self
            .client
            .update_item()
            .table_name(self.tables.tokens.get())
            .key("token_id", string(row.token_id))
            .condition_expression("attribute_exists(token_id)")
            .update_expression("SET last_used_at = :hour ADD uses :created")
            .expression_attribute_values(":hour", moment(hour))
            .expression_attribute_values(":created", number(u8::from(created)));
        match update(request).await? {
            // Deleted since, or in the middle of another transaction: its use is of no interest any more.
            Write::Applied(_) | Write::Refused(_) | Write::Conflicted => Ok(()),
        }
    }

    /// Every token, newest first.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let (mut tokens, mut next): (Vec<TokenRow>, Option<Item>) = (Vec::new(), None);
        loop {
            let request = self
                .client
                .query()
                .table_name(self.tables.tokens.get())
                .index_name(INDEX)
                .key_condition_expression("listing = :listing")
                .expression_attribute_values(":listing", string(LISTING))
                .scan_index_forward(false)
                .set_exclusive_start_key(next);
            let output = request.send().await.map_err(|error| failure(&error))?;
            for row in output.items.unwrap_or_default() {
                tokens.push(from_item(row)?);
            }
            next = output.last_evaluated_key;
            if next.is_none() {
                return Ok(tokens);
            }
        }
    }

    /// Deletes a token, with its event. One that is gone stays gone.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn delete_token(
        &self,
        token_id: TokenId,
        operator: Operator,
        now: Timestamp,
    ) -> Result<Changed<()>, StoreError> {
        let mut races = Races::default();
        while races.again().await {
            let Some(row) = self.token_row(token_id).await? else { return Ok(Changed::Done(())) };
            if !operator.reaches(row.board_id) {
                return Ok(Changed::Foreign);
            }
            let delete = Delete::builder()
                .table_name(self.tables.tokens.get())
                .key("token_id", string(token_id))
                .condition_expression("attribute_exists(token_id)");
            let event = self.token_event(&row, kind::TOKEN_REVOKED, operator.actor(), now);
            let delete = TransactWriteItem::builder().delete(delete.build().map_err(broken)?).build();
            match transact(&self.client, vec![delete, self.put_event(&event)?]).await? {
                Transaction::Applied => return Ok(Changed::Done(())),
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}
