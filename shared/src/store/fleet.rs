//! What the last complete sweep saw of the fleet.

use super::{Store, failure, from_item, string};
use crate::domain::failure::StoreError;
use crate::domain::fleet::Fleet;
use crate::domain::notification::CONTROL;

/// The row's key in its partition.
const KEY: &str = "fleet";

impl Store {
    /// The summary of the last complete sweep, by one consistent read; `None` before the first.
    ///
    /// # Errors
    /// DynamoDB does not answer, or refuses.
    pub async fn fleet(&self) -> Result<Option<Fleet>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(self.tables.alerts.get())
            .key("alert_log", string(CONTROL))
            .key("alert_key", string(KEY))
            .consistent_read(true);
        let output = request.send().await.map_err(|error| failure(&error))?;
        output.item.map(from_item::<Fleet>).transpose()
    }
}
