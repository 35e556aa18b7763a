//! Times and durations, as people say them.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::api::Failure;
use crate::environment;

/// `30s`, `10m`, `2h`, `7d` or a number of seconds, in seconds.
///
/// # Errors
/// It is none of these.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "expected a duration such as 90s, 10m, 2h or 7d".to_owned();
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 60 * 60),
        Some((at, 'd')) => (&text[..at], 24 * 60 * 60),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

/// The time that was so many seconds ago, as the API reads it.
///
/// # Errors
/// It is before all calendars.
pub fn ago(seconds: u64) -> Result<String, Failure> {
    let ago = i64::try_from(seconds).ok().map(time::Duration::seconds);
    let then = ago.and_then(|ago| OffsetDateTime::from(environment::now()).checked_sub(ago));
    let text = then.and_then(|then| then.format(&Rfc3339).ok());
    text.ok_or_else(|| Failure::Usage("that is too long ago".to_owned()))
}

/// How long a duration is, in its largest unit.
pub fn long(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time was, or in how long it comes; a dash for none.
pub fn from_now(time: Option<&str>) -> String {
    let Some(time) = time.and_then(parse) else { return "-".to_owned() };
    match environment::now().duration_since(time) {
        Ok(ago) => format!("{} ago", long(ago)),
        Err(ahead) => format!("in {}", long(nearest(ahead.duration()))),
    }
}

/// A duration to the nearest of the units in which it is told: what was made to last for 7 days a moment ago ends
/// in 7 days.
fn nearest(duration: Duration) -> Duration {
    let half_a_unit = match duration.as_secs() {
        0..119 => 500,
        119..7_170 => 30_000,
        7_170..171_000 => 1_800_000,
        _ => 43_200_000,
    };
    duration + Duration::from_millis(half_a_unit)
}

/// A time of an answer, to the second.
pub fn short(time: Option<&str>) -> String {
    let time = time.unwrap_or("-");
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

fn parse(time: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{long, nearest, seconds, short};

    #[test]
    fn durations_are_read_and_said_in_units() {
        let read = ["90", "90s", "10m", "2h", "7d"].map(|text| seconds(text).unwrap());
        assert_eq!(read, [90, 90, 600, 7200, 604_800]);
        for wrong in ["", "s", "-1", "1.5h", "2 h", "1w", "18446744073709551615d", "ä"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        let said = [119, 120, 7199, 7200, 172_800].map(|seconds| long(Duration::from_secs(seconds)));
        assert_eq!(said, ["119 s", "2 min", "119 min", "2 h", "2 d"]);
        let to_come = [118_600, 119_600, 599_000, 7_199_900, 604_799_900];
        let said = to_come.map(|millis| long(nearest(Duration::from_millis(millis))));
        assert_eq!(said, ["119 s", "2 min", "10 min", "2 h", "7 d"]);
        assert_eq!(short(Some("2026-11-21T22:54:22.622Z")), "2026-11-21T22:54:22Z");
    }
}
