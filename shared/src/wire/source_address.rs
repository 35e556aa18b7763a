//! The address that a caller without a row is counted by.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Once;

use lambda_http::http::HeaderMap;
use tracing::warn;

/// The caller's address as a limit knows it: an IPv4 address, or the /64 network of an IPv6 one, since every
/// IPv6 host has 2^64 addresses of its own. A port beside it is cut off.
///
/// `source_ip` is what API Gateway saw. Behind `trusted_hops` proxies of one's own it is a proxy's, and the
/// caller's is the entry of `X-Forwarded-For` that the outermost of them wrote: the `trusted_hops`-th from the
/// right. With fewer entries than that, `source_ip` counts. A `trusted_header` that is there comes first: it is for a
/// proxy that writes the address into a header of its own, over what the caller may have written there. An entry that is not an address counts for itself, and the
/// first one is logged: the proxy writes something that is not understood here.
#[must_use]
pub fn source_address(
    source_ip: Option<&str>,
    headers: &HeaderMap,
    trusted_header: Option<&str>,
    trusted_hops: usize,
) -> String {
    let told = trusted_header.and_then(|name| headers.get(name)?.to_str().ok()).map(str::trim);
    let forwarded = trusted_hops.checked_sub(1).and_then(|from_the_right| {
        let entries: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        entries.iter().rev().nth(from_the_right).map(|entry| entry.trim())
    });
    let is_there = |entry: &&str| !entry.is_empty();
    let Some(text) = told.filter(is_there).or(forwarded.filter(is_there)).or(source_ip) else {
        return "unknown".to_owned();
    };
    match parse(text) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => network_64(address),
        None => {
            UNREADABLE.call_once(|| {
                warn!("an address of a caller that cannot be read: are TrustedProxyHops and TrustedAddressHeader right?");
            });
            text.chars().filter(char::is_ascii_graphic).take(LONGEST_UNREADABLE).collect()
        }
    }
}

/// Whether an address that cannot be read was logged: once is enough.
static UNREADABLE: Once = Once::new();

/// How many characters of an entry that is not an address tell it from others.
const LONGEST_UNREADABLE: usize = 64;

/// An address, alone or with a port: `192.0.2.1`, `192.0.2.1:5001`, `2001:db8::1`, `[2001:db8::1]:5001`, and, as
/// `CloudFront` writes it, `2001:db8:0:0:0:0:0:1:5001`.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let without_brackets = || text.rsplit_once(':')?.0.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    address.ok().or_else(bracketed).or_else(without_brackets).map(|address| address.to_canonical())
}

fn network_64(address: Ipv6Addr) -> String {
    let [a, b, c, d, ..] = address.segments();
    format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(source_ip: &str, forwarded: &str, hops: usize) -> String {
        let headers =
            HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), forwarded.parse().unwrap())]);
        source_address(Some(source_ip), &headers, None, hops)
    }

    #[test]
    fn without_trusted_proxies_the_header_is_not_believed() {
        assert_eq!(from("192.0.2.1", "203.0.113.9", 0), "192.0.2.1");
    }

    #[test]
    fn the_trusted_proxies_entry_is_counted_from_the_right() {
        assert_eq!(from("192.0.2.1", "10.9.9.9, 203.0.113.9, 198.51.100.1", 1), "198.51.100.1");
        assert_eq!(from("192.0.2.1", "10.9.9.9, 203.0.113.9, 198.51.100.1", 2), "203.0.113.9");
        assert_eq!(from("192.0.2.1", "203.0.113.9", 2), "192.0.2.1");
    }

    #[test]
    fn a_port_beside_an_address_is_cut_off() {
        assert_eq!(from("10.1.22.195:32554", "", 0), "10.1.22.195");
        assert_eq!(from("192.0.2.1", "198.51.100.11:5001", 1), "198.51.100.11");
        assert_eq!(from("192.0.2.1", "[2001:db8:1:2:3:4:5:6]:5001", 1), "2001:db8:1:2::/64");
        assert_eq!(from("192.0.2.1", "[2001:db8:1:2:3:4:5:6]", 1), "2001:db8:1:2::/64");
    }

    #[test]
    fn a_trusted_header_comes_before_what_was_forwarded() {
        let from = |told: &str| {
            let headers = [("cloudfront-viewer-address", told), ("x-forwarded-for", "203.0.113.9")];
            let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let header = Some("CloudFront-Viewer-Address");
            source_address(Some("192.0.2.1"), &HeaderMap::from_iter(headers), header, 1)
        };
        assert_eq!(from("198.51.100.10:46532"), "198.51.100.10");
        assert_eq!(from("2001:db8:1:2:3:4:5:6:46532"), "2001:db8:1:2::/64");
        assert_eq!(from(""), "203.0.113.9");
        let none = HeaderMap::new();
        assert_eq!(source_address(Some("192.0.2.1"), &none, Some("cf-connecting-ip"), 0), "192.0.2.1");
    }

    #[test]
    fn an_entry_that_is_not_an_address_counts_for_itself() {
        assert_eq!(from("192.0.2.1", "nonsense", 1), "nonsense");
        assert_eq!(from("192.0.2.1", &"x".repeat(1_000), 1), "x".repeat(64));
    }

    #[test]
    fn ipv6_callers_count_per_64() {
        assert_eq!(from("2001:db8:1:2:3:4:5:6", "", 0), "2001:db8:1:2::/64");
        assert_eq!(from("::ffff:192.0.2.1", "", 0), "192.0.2.1");
        assert_eq!(source_address(None, &HeaderMap::new(), None, 0), "unknown");
    }
}
