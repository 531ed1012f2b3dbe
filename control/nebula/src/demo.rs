//! The demo extensions of a first start: 1000 to 1009 with random passwords.

use nebula_store::extensions::{Customer, Ha1, NewExtension};
use nebula_store::{Store, now_unix_ms};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first of them.
pub const FIRST: u16 = 1000;
/// How many.
pub const COUNT: u16 = 10;

/// The one customer, whose all extensions are for now.
pub const CUSTOMER: &str = "default";

/// Sets all of their passwords, for scripts.
pub const PASSWORD_VARIABLE: &str = "NEBULA_DEMO_PASSWORD";

/// No letters or digits that are taken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 32^12 = 2^60: out of reach for guessing over SIP.
const PASSWORD_LENGTH: usize = 12;

/// A demo extension as it is shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The user part.
    pub user: String,
    /// The password in the clear; only its hashes are stored.
    pub password: String,
}

/// The ten, with passwords from the environment or from the system's random source.
pub fn extensions() -> Result<Vec<Extension>, getrandom::Error> {
    let fixed = std::env::var(PASSWORD_VARIABLE).ok().filter(|p| !p.is_empty());
    (FIRST..FIRST + COUNT)
        .map(|user| {
            let password = match &fixed {
                Some(password) => password.clone(),
                None => random_password()?,
            };
            Ok(Extension { user: user.to_string(), password })
        })
        .collect()
}

/// The customer, as a first start makes it.
pub fn customer() -> Customer {
    Customer { id: CUSTOMER.to_owned(), name: "Default".to_owned(), created_unix_ms: now_unix_ms() }
}

/// Makes the demo extensions if there is no extension yet; returns those that were made. `who` is for the audit log.
pub async fn seed(store: &Store, realm: &str, who: &str) -> anyhow::Result<Vec<Extension>> {
    let all = extensions()?;
    let new = |e: &Extension| NewExtension {
        user: e.user.clone(),
        display_name: format!("Demo {}", e.user),
        ha1: Ha1::new(&e.user, realm, &e.password),
        srtp: None,
    };
    let seeded = nebula_store::extensions::seed(store, customer(), all.iter().map(new).collect(), who).await?;
    Ok(if seeded { all } else { Vec::new() })
}

/// A password that a person can type into a phone.
pub fn random_password() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; PASSWORD_LENGTH];
    getrandom::fill(&mut bytes)?;
    // The alphabet has 32 letters: five bits of each byte, without bias.
    Ok(bytes.iter().map(|b| ALPHABET[usize::from(b % 32)] as char).collect())
}

/// The address of this host that phones most likely reach: the one of the default route. Nothing is sent.
pub fn likely_address(bind_ip: IpAddr) -> IpAddr {
    if !bind_ip.is_unspecified() {
        return bind_ip;
    }
    // Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket only asks the routing table.
    let (any, far, own) = match bind_ip {
        IpAddr::V4(_) => ("0.0.0.0:0", "192.0.2.1:9", IpAddr::from(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(_) => ("[::]:0", "[2001:db8::1]:9", IpAddr::from(Ipv6Addr::LOCALHOST)),
    };
    let route = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(far)?;
        Ok(socket.local_addr()?.ip())
    };
    route().unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_differ_and_can_be_read_out() {
        let all: std::collections::HashSet<String> = (0..100).map(|_| random_password().unwrap()).collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|p| p.len() == PASSWORD_LENGTH && p.bytes().all(|b| ALPHABET.contains(&b))));
    }

    #[test]
    fn a_bound_address_is_the_address() {
        let ip = IpAddr::from([127, 0, 0, 5]);
        assert_eq!(likely_address(ip), ip);
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let likely = likely_address(any);
            assert!(!likely.is_unspecified() && likely.is_ipv4() == any.is_ipv4(), "{likely}");
        }
    }
}
