//! Signatures by Standard Webhooks 1.0: <https://www.standardwebhooks.com>.

use standardwebhooks::Webhook;
use uuid::Uuid;

use crate::time::Timestamp;

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// How many bytes a secret has, and how many one has that Rollcall draws.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const DRAWN_BYTES: usize = 32;

/// A new secret, in the form that Standard Webhooks' libraries take.
#[must_use]
pub fn new_secret() -> String {
    let bytes: [u8; DRAWN_BYTES] = rand::random();
    format!("{PREFIX}{}", aws_smithy_types::base64::encode(bytes))
}

/// Checks a secret that an operator brings along: `whsec_`, and base64 of 24 to 64 bytes.
///
/// # Errors
/// Says in words what it must be, without repeating it.
pub fn check_secret(text: &str) -> Result<(), &'static str> {
    const PROBLEM: &str = "must be 'whsec_' and base64, with padding, of 24 to 64 bytes";
    let encoded = text.strip_prefix(PREFIX).ok_or(PROBLEM)?;
    Webhook::new(text).map_err(|_| PROBLEM)?;
    let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
    let bytes = (encoded.len() / 4 * 3).saturating_sub(padding);
    if SECRET_BYTES.contains(&bytes) { Ok(()) } else { Err(PROBLEM) }
}

/// The value of `webhook-id`: the same for every attempt of a delivery.
#[must_use]
pub fn message_id(delivery_id: Uuid) -> String {
    format!("msg_{delivery_id}")
}

/// The value of `webhook-signature`: one signature for each of `secrets`, which are the valid ones.
#[must_use]
pub fn signature(secrets: &[&str], message_id: &str, now: Timestamp, body: &str) -> String {
    let signed = secrets.iter().filter_map(|secret| {
        Webhook::new(secret).ok()?.sign(message_id, now.as_seconds(), body.as_bytes()).ok()
    });
    signed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    #[test]
    fn a_message_is_signed_as_the_specifications_example_is() {
        let now = Timestamp::from_millis(1_649_367_553_999);
        let body = r#"{"email":"test@example.com","username":"test_user"}"#;
        let expected = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        assert_eq!(signature(&[SECRET], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", now, body), expected);
        let both = signature(&[SECRET, SECRET], "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", now, body);
        assert_eq!(both, format!("{expected} {expected}"));
    }

    #[test]
    fn a_secret_has_the_specifications_form() {
        for _ in 0..100 {
            assert_eq!(check_secret(&new_secret()), Ok(()));
        }
        let of = |bytes: usize| format!("{PREFIX}{}", aws_smithy_types::base64::encode(vec![7; bytes]));
        for bytes in [24, 25, 26, 63, 64] {
            assert_eq!(check_secret(&of(bytes)), Ok(()), "{bytes}");
        }
        let no_padding = of(25).trim_end_matches('=').to_owned();
        for secret in ["", "whsec_", "whsec_!", &SECRET[6..], &of(23), &of(65), &no_padding] {
            let problem = check_secret(secret).expect_err(secret);
            assert!(secret.is_empty() || !problem.contains(secret) || secret == "whsec_", "{problem}");
        }
    }
}
