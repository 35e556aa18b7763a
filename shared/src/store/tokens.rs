//! Operator and enrollment tokens.

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use serde_json::json;

use super::{RACES, Store, StoreError, Transaction};
use super::{broken, failure, from_item, pause_after_lost_race, string, to_item, transact};
use crate::credential::Token;
use crate::event::{Actor, kind};
use crate::time::Timestamp;
use crate::token::{MintedToken, TokenRequest, TokenRow};

impl Store {
    /// Mints a token, with its event.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after [`RACES`] lost races.
    pub async fn mint_token(
        &self,
        request: &TokenRequest,
        actor: Actor,
        now: Timestamp,
    ) -> Result<MintedToken, StoreError> {
        for race in 0..=RACES {
            if race > 0 {
                pause_after_lost_race().await;
            }
            let token = Token::generate(request.kind);
            let row = request.row(&token, now);
            let put = Put::builder()
                .table_name(&self.tables.tokens)
                .set_item(Some(to_item(&row)?))
                .condition_expression("attribute_not_exists(token_id)")
                .build()
                .map_err(broken)?;
            let payload = json!({
                "kind": row.token_kind,
                "label": row.label,
                "board_id": row.board_id,
                "reusable": row.reusable,
                "approved": row.pre_approved,
                "expires_at": row.valid_until.to_string(),
            });
            let partition = format!("token#{}", row.token_id);
            let event = self.record(partition, kind::TOKEN_CREATED, actor, &payload, now);
            let writes = vec![TransactWriteItem::builder().put(put).build(), self.put_event(&event)?];
            match transact(&self.client, writes).await? {
                Transaction::Applied => return Ok(MintedToken { token, row }),
                // A key id that is taken: draw again.
                Transaction::Refused(..) | Transaction::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }

    /// The row of `token`, if it exists: one consistent read, so that a deleted token ends with the next
    /// request.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn token(&self, token: &Token) -> Result<Option<TokenRow>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.tables.tokens)
            .key("token_id", string(token.token_id()))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        let row = output.item.map(from_item::<TokenRow>).transpose()?;
        Ok(row.filter(|row| row.is_of(token)))
    }
}
