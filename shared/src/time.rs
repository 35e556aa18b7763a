//! Time as the rows and the wire hold it. This is the only reader of the clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const RFC3339_MILLIS: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

const HTTP_DATE: &[BorrowedFormatItem<'static>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// The last millisecond that RFC 3339 can write: 9999-12-31T23:59:59.999Z.
const LAST_MILLIS: i64 = 253_402_300_799_999;

/// A moment in epoch milliseconds, between 1970 and the year 9999.
///
/// Rows hold it as a number of milliseconds; the wire as RFC 3339 in UTC with milliseconds and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Timestamp(i64);

/// A number that is not a moment between 1970 and the year 9999.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a time in epoch milliseconds")]
pub struct OutOfRange(i64);

impl Timestamp {
    /// What the machine's clock says.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_millis()).unwrap_or(LAST_MILLIS).min(LAST_MILLIS))
    }

    /// Epoch milliseconds, held inside the range that RFC 3339 can write.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        if millis < 0 {
            Self(0)
        } else if millis > LAST_MILLIS {
            Self(LAST_MILLIS)
        } else {
            Self(millis)
        }
    }

    /// Epoch milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Epoch seconds, rounded down: the unit of DynamoDB's TTL.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0 / 1000
    }

    /// This moment and `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(millis(duration)))
    }

    /// This moment and `duration` earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(millis(duration)))
    }

    /// As HTTP's `Date` has it: whole seconds, rounded down.
    #[must_use]
    pub fn http_date(self) -> String {
        let moment = OffsetDateTime::from_unix_timestamp(self.as_seconds()).ok();
        moment.and_then(|moment| moment.format(HTTP_DATE).ok()).unwrap_or_default()
    }

    /// Reads a moment as the wire has it; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = PrimitiveDateTime::parse(text, RFC3339_MILLIS).ok()?.assume_utc();
        Self::try_from(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()?).ok()
    }

    /// How long ago `earlier` was; zero if it is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A duration as the rows hold it, in milliseconds.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| fmt::Error)?;
        f.write_str(&moment.format(RFC3339_MILLIS).map_err(|_| fmt::Error)?)
    }
}

impl TryFrom<i64> for Timestamp {
    type Error = OutOfRange;

    fn try_from(millis: i64) -> Result<Self, OutOfRange> {
        if (0..=LAST_MILLIS).contains(&millis) { Ok(Self(millis)) } else { Err(OutOfRange(millis)) }
    }
}

impl From<Timestamp> for i64 {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_rfc3339_with_milliseconds_and_z() {
        let moment = Timestamp::from_millis(1_700_000_000_007);
        assert_eq!(moment.to_string(), "2023-11-14T22:13:20.007Z");
        assert_eq!(Timestamp::parse("2023-11-14T22:13:20.007Z"), Some(moment));
        assert_eq!(Timestamp::parse("2023-11-14T22:13:20Z"), None);
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(-1).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_date_of_http_has_whole_seconds() {
        let moment = Timestamp::from_millis(784_111_777_999);
        assert_eq!(moment.http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn a_moment_to_come_was_no_time_ago() {
        let now = Timestamp::from_millis(5_000);
        assert_eq!(now.since(now.plus(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(now.since(now.minus(Duration::from_secs(1))), Duration::from_secs(1));
    }

    #[test]
    fn a_row_with_an_impossible_time_is_refused() {
        assert!(serde_json::from_str::<Timestamp>("-1").is_err());
        assert!(serde_json::from_str::<Timestamp>("253402300800000").is_err());
    }
}
