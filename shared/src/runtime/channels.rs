//! What the routes of channels share: the greeting of a channel, and turns.

use serde_json::{Map, Value, json};
use tracing::warn;

use super::app::App;
use super::callers::reach;
use crate::domain::channel::{Channel, ChannelId, Turn};
use crate::domain::delivery::Delivery;
use crate::domain::fleet::{Fleet, Named};
use crate::domain::notification::{Notification, message_type};
use crate::domain::token::Operator;
use crate::store::Taken;
use crate::time::Timestamp;
use crate::wire::error::{ApiError, ErrorKind};

/// There is no channel with this id.
pub const NO_SUCH_CHANNEL: ErrorKind = ErrorKind::NotFound("no such channel");

/// How many of a deleted channel's deliveries are canceled. More of them are as little sent.
const CANCELED: i32 = 1_000;

/// How many agents a greeting names.
const NAMED: usize = 10;

impl App {
    /// A channel that must exist, and be one of those that the caller's token reaches: one read.
    ///
    /// # Errors
    /// 404 if it does not exist, 403 if it is of another board, 503 without a database.
    pub async fn reachable_channel(
        &self,
        channel_id: ChannelId,
        operator: Operator,
    ) -> Result<Channel, ApiError> {
        let channel = self.store.channel(channel_id).await?.ok_or(NO_SUCH_CHANNEL)?;
        reach(operator, channel.board_id)?;
        Ok(channel)
    }

    /// Takes a turn of a channel.
    ///
    /// # Errors
    /// 404 if it is gone since it was read, 429 before the pause is over, 503 without a database.
    pub async fn turn(&self, channel_id: ChannelId, turn: Turn, now: Timestamp) -> Result<(), ApiError> {
        match self.store.take_turn(channel_id, turn, now).await? {
            Taken::Now => Ok(()),
            Taken::NoSuchChannel => Err(NO_SUCH_CHANNEL.into()),
            Taken::TooSoon(again_at) => Err(ErrorKind::TooSoon { again_at }.into()),
        }
    }

    /// Cancels what waits for a channel that was deleted. The request does not fail for this: nothing of it is sent.
    pub async fn cancel_deliveries(&self, channel_id: ChannelId, now: Timestamp) {
        if let Err(error) = self.store.cancel_deliveries(channel_id, CANCELED, now).await {
            warn!(cause = %error, %channel_id, "a deleted channel's deliveries were not all canceled");
        }
    }

    /// The greeting of a channel that begins to hear: what is so now, and nothing that it was not to hear of.
    #[must_use]
    pub fn hello(&self, channel: &Channel, fleet: Option<&Fleet>, now: Timestamp) -> Delivery {
        let message = hello(channel, fleet, now);
        self.store.new_delivery(channel, &self.store.own_key("hello", now), &message, now)
    }
}

/// What a channel is told first.
fn hello(channel: &Channel, fleet: Option<&Fleet>, now: Timestamp) -> Notification {
    let mut data = Map::new();
    data.insert("channel".to_owned(), json!({ "id": channel.channel_id, "label": channel.label }));
    if let Some(fleet) = fleet {
        let heard = |one: &&Named| channel.hears(one.concern) && channel.hears_board(one.board_id);
        let told: Vec<&Named> = fleet.told.iter().filter(heard).collect();
        let agents: Vec<Value> = told.iter().take(NAMED).map(|one| named(one)).collect();
        // What the summary has no room for is counted for all boards together.
        let beyond = if channel.board_id.is_none() { fleet.more } else { 0 };
        let more = u64::try_from(told.len() - agents.len()).unwrap_or(u64::MAX).saturating_add(beyond);
        data.insert("as_of".to_owned(), json!(fleet.as_of.to_string()));
        data.insert("seq".to_owned(), json!(fleet.seq));
        data.insert("deaf_since".to_owned(), json!(fleet.deaf_since.map(|since| since.to_string())));
        data.insert("agents".to_owned(), Value::Array(agents));
        data.insert("more".to_owned(), json!(more));
        if channel.board_id.is_none() {
            data.insert("fleet".to_owned(), json!(fleet.counts));
        } else {
            let board = fleet.boards.iter().find(|board| board.board_id == channel.board_id);
            data.insert("board".to_owned(), json!(board.map(|board| board.counts)));
        }
    }
    Notification { message_type: message_type::CHANNEL_HELLO.to_owned(), at: now, data }
}

fn named(one: &Named) -> Value {
    json!({ "id": one.id, "name": one.name, "board_id": one.board_id, "concern": one.concern })
}
