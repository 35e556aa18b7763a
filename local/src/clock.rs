//! The clock that the local system hands to the functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use shared::time::Timestamp;

/// The machine's clock, or one that stands still until it is advanced.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    standing_at: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// A clock that stands at `now`. Its clones stand together.
    #[must_use]
    pub fn standing_at(now: Timestamp) -> Self {
        Self { standing_at: Some(Arc::new(AtomicI64::new(now.as_millis()))) }
    }

    /// What the clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.standing_at {
            None => Timestamp::now(),
            Some(millis) => Timestamp::from_millis(millis.load(Ordering::SeqCst)),
        }
    }

    /// Moves a standing clock on. The machine's own goes by itself.
    pub fn advance(&self, duration: Duration) {
        if let Some(millis) = &self.standing_at {
            let duration = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            millis.fetch_add(duration, Ordering::SeqCst);
        }
    }
}
