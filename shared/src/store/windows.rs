//! Rate-limit windows that no agent's row holds: by address, or by agent for its own rotations.

use super::{Races, Store, Write, number, string, update};
use crate::domain::failure::StoreError;
use crate::domain::rate_limit::{Counted, Policy, Quota, WINDOW, Window};
use crate::time::Timestamp;

impl Store {
    /// Counts a call in the current window: one write. `counted_by` is an address, or an agent's id.
    ///
    /// The key names the window, so no counter is ever reset; its row goes a window after its end.
    ///
    /// # Errors
    /// [`StoreError::Contended`] after every lost race.
    pub async fn count_call(
        &self,
        policy: Policy,
        counted_by: &str,
        limit: u32,
        now: Timestamp,
    ) -> Result<Counted, StoreError> {
        let window = Window::at(now);
        let expires_at = window.ends_at().plus(WINDOW).as_seconds();
        let mut races = Races::default();
        while races.again().await {
            let request = self
                .client
                .update_item()
                .table_name(self.tables.windows.get())
                .key("window_id", string(format!("{}#{counted_by}#{}", policy.as_str(), window.number())))
                .condition_expression("attribute_not_exists(calls) OR calls < :limit")
                .update_expression("SET expires_at = :expires_at ADD calls :one")
                .expression_attribute_values(":limit", number(limit))
                .expression_attribute_values(":expires_at", number(expires_at))
                .expression_attribute_values(":one", number(1));
            match update(request).await? {
                Write::Applied(row) => {
                    let calls = row.get("calls").and_then(|calls| calls.as_n().ok()?.parse().ok());
                    let used =
                        calls.ok_or_else(|| StoreError::Broken("a window without calls".to_owned()))?;
                    return Ok(Counted::Within(Quota::after(policy, limit, used, now)));
                }
                Write::Refused(_) => return Ok(Counted::Over(Quota::after(policy, limit, limit, now))),
                Write::Conflicted => {}
            }
        }
        Err(StoreError::Contended)
    }
}
