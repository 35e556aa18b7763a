//! Where a channel may send to: what an operator may write, judged before any name is looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::config::WebhookTargets;
use crate::domain::public_address::is_public;

/// The most characters of a target's URL.
const URL_LIMIT: usize = 2_000;

/// How many of a URL's last characters are shown, and how long its path must be for that.
const SHOWN: usize = 4;
const SHOWN_OF: usize = 3 * SHOWN;

/// A URL that a channel may send to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Uri,
}

/// Never the URL: it is often a credential.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Target {
    /// Reads and checks a URL.
    ///
    /// Of `Public` targets it must be `https` with a host, without user information or fragment, on port 443 or from 1024
    /// on, and an address in it must be a public one. Names are judged by what they resolve to, at each attempt.
    ///
    /// # Errors
    /// Says in words what is wrong with it, without repeating any of it.
    pub fn parse(text: &str, allowed: WebhookTargets) -> Result<Self, &'static str> {
        const URL: &str = "must be a URL: https://, a host, perhaps a port, and a path";
        let any = allowed == WebhookTargets::Any;
        if text.chars().count() > URL_LIMIT {
            return Err("must have at most 2000 characters");
        }
        if !text.is_ascii() {
            return Err("must be of ASCII characters: others are written as % and two digits");
        }
        if text.contains('#') {
            return Err("must have no fragment");
        }
        let url: Uri = text.parse().map_err(|_| URL)?;
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if any => {}
            Some("http") => return Err("must be an https:// URL"),
            _ => return Err(URL),
        }
        let authority = url.authority().ok_or(URL)?;
        if authority.as_str().contains('@') {
            return Err("must have no user information");
        }
        let host = authority.host();
        let port = authority.as_str().strip_prefix(host).ok_or(URL)?;
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some(digits) => Some(digits.parse::<u16>().map_err(|_| URL)?),
            None => return Err(URL),
        };
        if host.is_empty() || host == "[]" {
            return Err(URL);
        }
        if !any && port.is_some_and(|port| port != 443 && port < 1024) {
            return Err("must be on port 443 or on one from 1024 to 65535");
        }
        if host.starts_with('[') && literal(host).is_none() {
            return Err(URL);
        }
        let target = Self { url };
        if !any && target.literal().is_some_and(|address| !is_public(address)) {
            return Err("must be a public address");
        }
        Ok(target)
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// The address that the URL has for a host, if it is one: such a host is connected to without a look-up.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        literal(self.url.host()?)
    }

    /// Scheme and host, and the last four characters if they are a small part of the rest.
    #[must_use]
    pub fn shown(&self) -> String {
        let (scheme, authority) = (self.url.scheme_str().unwrap_or_default(), self.url.authority());
        let authority = authority.map(http::uri::Authority::as_str).unwrap_or_default();
        let path = self.url.path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default();
        let end =
            (path.len() >= SHOWN_OF).then(|| path.get(path.len() - SHOWN..)).flatten().unwrap_or_default();
        format!("{scheme}://{authority}/…{end}")
    }
}

/// A host that is an address, exactly as the HTTP client reads one: `127.1`, `0x7f.1` or `2130706433` are names to both,
/// and go to the resolver.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_target_is_https_with_a_host_and_little_else() {
        for url in [
            "https://hooks.slack.com/services/T0/B0/xyz",
            "https://receiver.example",
            "https://receiver.example:8443/a?b=c",
            "https://receiver.example:443/",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]:1024/",
            "https://127.1/",
        ] {
            assert!(Target::parse(url, WebhookTargets::Public).is_ok(), "{url}");
        }
    }

    #[test]
    fn whatever_else_is_refused_in_words_that_do_not_repeat_it() {
        let long = format!("https://receiver.example/{}", "a".repeat(2_000));
        for url in [
            "",
            "receiver.example",
            "/path",
            "https://",
            "https:///secret",
            "http://receiver.example/secret",
            "ftp://receiver.example/secret",
            "file:///secret",
            "https://somebody:secret@receiver.example/",
            "https://secret@receiver.example/",
            "https://receiver.example/#secret",
            "https://receiver.example:/secret",
            "https://receiver.example:22/secret",
            "https://receiver.example:80/secret",
            "https://receiver.example:1023/secret",
            "https://receiver.example:0/secret",
            "https://receiver.example:65536/secret",
            "https://receiver.example:x/secret",
            "https://a b/secret",
            "https://receiver.example/secret/…",
            "https://127.0.0.1/secret",
            "https://10.0.0.1:8443/secret",
            "https://169.254.169.254/secret",
            "https://[::1]/secret",
            "https://[::ffff:127.0.0.1]/secret",
            "https://[fe80::1]/secret",
            "https://[fe80::1%25eth0]/secret",
            "https://[]/secret",
            "https://[secret]/",
            &long,
        ] {
            let problem = Target::parse(url, WebhookTargets::Public).expect_err(url);
            assert!(!problem.contains("secret") && !problem.contains("aaaa"), "{problem}");
        }
    }

    #[test]
    fn a_laptop_may_call_anything_by_http_too() {
        for url in ["http://127.0.0.1:8080/", "http://localhost/", "https://[::1]:22/"] {
            assert!(Target::parse(url, WebhookTargets::Any).is_ok(), "{url}");
        }
        for url in ["ftp://localhost/", "http://a@localhost/", "localhost:8080"] {
            assert!(Target::parse(url, WebhookTargets::Any).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_shown_tells_targets_apart_and_is_of_no_use() {
        let shown = |url: &str| Target::parse(url, WebhookTargets::Any).unwrap().shown();
        assert_eq!(
            shown("https://hooks.slack.com/services/T0/B0/abcdefghij"),
            "https://hooks.slack.com/…ghij"
        );
        assert_eq!(shown("https://receiver.example:8443/short"), "https://receiver.example:8443/…");
        assert_eq!(shown("http://localhost"), "http://localhost/…");
        let target = Target::parse("https://receiver.example/a-long-secret", WebhookTargets::Public).unwrap();
        assert_eq!(format!("{target:?}"), "https://receiver.example/…cret");
    }
}
