//! Whether a peer's media may come from elsewhere than its SDP says, and which address it is told. Pure; called by `agent`.

use crate::options::{Nat, Options};
use std::net::IpAddr;

/// Whether to expect NAT between `local` and a peer that says it receives at `signalled` and whose SIP came from
/// `source`. A phone on this host that says `127.0.0.1` sends to our other addresses from those.
pub fn is_expected(mode: Nat, local: IpAddr, signalled: Option<IpAddr>, source: Option<IpAddr>) -> bool {
    match (mode, signalled, source) {
        (Nat::Always, ..) => true,
        (Nat::Never, ..) => false,
        (Nat::Auto, Some(signalled), _) if signalled.is_loopback() && !local.is_loopback() => true,
        (Nat::Auto, Some(signalled), Some(source)) => signalled.to_canonical() != source.to_canonical(),
        (Nat::Auto, Some(signalled), None) => is_private(signalled),
        (Nat::Auto, None, _) => false,
    }
}

/// The address that a peer's media may come from besides the one it signalled: its SIP's. A phone on this host sends to our
/// other addresses from those.
pub fn learn_from(local: IpAddr, source: Option<IpAddr>) -> Option<IpAddr> {
    let source = source.map(|source| source.to_canonical());
    source.map(|source| if source.is_loopback() && !local.is_loopback() { local } else { source })
}

/// RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291 section 2.5.6: addresses that mean nothing outside their network.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// The address a peer is told for a stream that is bound to `local`.
pub fn advertised(options: &Options, local: IpAddr) -> IpAddr {
    let told = options.advertised_ip.filter(|ip| ip.is_ipv6() == local.is_ipv6());
    if local.is_loopback() { local } else { told.unwrap_or(local) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn nat_is_where_sdp_and_sip_differ() {
        let auto = |signalled, source| is_expected(Nat::Auto, ip("10.0.0.7").unwrap(), signalled, source);
        assert!(auto(ip("192.168.1.5"), ip("203.0.113.9")));
        assert!(!auto(ip("192.168.1.5"), ip("192.168.1.5")), "the same private network");
        assert!(!auto(ip("203.0.113.9"), ip("::ffff:203.0.113.9")));
        assert!(auto(ip("203.0.113.9"), ip("203.0.113.10")));
        for private in ["10.0.0.1", "100.64.0.1", "169.254.1.1", "fd00::1", "fe80::1"] {
            assert!(auto(ip(private), None), "{private}");
        }
        assert!(!auto(ip("100.128.0.1"), None) && !auto(ip("2001:db8::1"), None) && !auto(None, ip("10.0.0.1")));
        assert!(auto(ip("127.0.0.1"), ip("127.0.0.1")), "from this host to another of its addresses");
        let loopback = ip("127.0.0.1");
        assert!(!is_expected(Nat::Auto, loopback.unwrap(), loopback, loopback));
        assert!(is_expected(Nat::Always, loopback.unwrap(), None, None));
        assert!(!is_expected(Nat::Never, loopback.unwrap(), ip("10.0.0.1"), ip("203.0.113.9")));
    }

    #[test]
    fn a_peer_is_learned_from_where_its_sip_came_from() {
        let learned = |local, source: &str| learn_from(ip(local).unwrap(), ip(source));
        assert_eq!(learned("10.0.0.7", "::ffff:203.0.113.9"), ip("203.0.113.9"));
        assert_eq!(learned("10.0.0.7", "127.0.0.1"), ip("10.0.0.7"));
        assert_eq!(learned("127.0.0.1", "127.0.0.1"), ip("127.0.0.1"));
        assert_eq!(learn_from(ip("10.0.0.7").unwrap(), None), None);
    }

    #[test]
    fn the_public_address_is_told_to_all_but_this_host() {
        let options = Options { advertised_ip: ip("203.0.113.1"), ..Options::default() };
        assert_eq!(advertised(&options, ip("10.0.0.1").unwrap()), ip("203.0.113.1").unwrap());
        assert_eq!(advertised(&options, ip("127.0.0.1").unwrap()), ip("127.0.0.1").unwrap());
        assert_eq!(advertised(&options, ip("2001:db8::1").unwrap()), ip("2001:db8::1").unwrap());
    }
}
