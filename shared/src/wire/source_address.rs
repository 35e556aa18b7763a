//! The address that a caller without a row is counted by.

use std::net::{IpAddr, Ipv6Addr};

use lambda_http::http::HeaderMap;

/// The caller's address as a limit knows it: an IPv4 address, or the /64 network of an IPv6 one, since every
/// IPv6 host has 2^64 addresses of its own.
///
/// `source_ip` is what API Gateway saw. Behind `trusted_hops` proxies of one's own it is a proxy's, and the
/// caller's is the entry of `X-Forwarded-For` that the outermost of them wrote: the `trusted_hops`-th from the
/// right. With fewer entries than that, `source_ip` counts.
#[must_use]
pub fn source_address(source_ip: Option<&str>, headers: &HeaderMap, trusted_hops: usize) -> String {
    let forwarded = trusted_hops.checked_sub(1).and_then(|from_the_right| {
        let entries: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        parse(entries.iter().rev().nth(from_the_right)?)
    });
    match forwarded.or_else(|| parse(source_ip?)) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => network_64(address),
    }
}

fn parse(text: &str) -> Option<IpAddr> {
    text.trim().parse::<IpAddr>().ok().map(|address| address.to_canonical())
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
        source_address(Some(source_ip), &headers, hops)
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
        assert_eq!(from("192.0.2.1", "nonsense", 1), "192.0.2.1");
    }

    #[test]
    fn ipv6_callers_count_per_64() {
        assert_eq!(from("2001:db8:1:2:3:4:5:6", "", 0), "2001:db8:1:2::/64");
        assert_eq!(from("::ffff:192.0.2.1", "", 0), "192.0.2.1");
        assert_eq!(source_address(None, &HeaderMap::new(), 0), "unknown");
    }
}
