//! Address: public addresses of the Internet, and names resolved to those only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Error text for a name that leads to private addresses only.
pub(super) const LEADS_INSIDE: &str =
    "the name leads to a private address, and allow_private is not set";

/// Resolver of names to public addresses only: the address of a name is known when it is connected
/// to, not when it is checked.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let public = resolve(name.as_str(), 0, false).await?;
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Addresses that a name leads to, private ones only where they are allowed.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    allow_private: bool,
) -> std::io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let allowed: Vec<SocketAddr> =
        found.filter(|address| allow_private || !is_private(address.ip())).collect();
    if allowed.is_empty() { Err(std::io::Error::other(LEADS_INSIDE)) } else { Ok(allowed) }
}

/// Address that a host is written as, if it is one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// True if an address is not one of the public Internet.
///
/// Source: the IANA special-purpose address registries (RFC 6890 and what updates it).
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || (a, b, c) == (192, 0, 0)
        }
        IpAddr::V6(ip) => {
            let s = ip.segments();
            let embedded = || Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
            // IPv4 in IPv6: mapped (::ffff:0:0/96), compatible (::/96), and translated
            // (64:ff9b::/96).
            let carries_v4 = (s[..5] == [0; 5] && [0, 0xffff].contains(&s[5]))
                || (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]);
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || (s[0] & 0xfe00) == 0xfc00
                || (s[0] & 0xffc0) == 0xfe80
                || (s[0], s[1]) == (0x2001, 0x0db8)
                || s[0] == 0x2002
                || (carries_v4 && is_private(IpAddr::V4(embedded())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_private() {
        for ip in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "::127.0.0.1",
            "ff02::1",
            "2002:a00:1::",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }
}
