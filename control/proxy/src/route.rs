//! What was dialled, and who answers it. Pure; asked once per INVITE, after authentication.
//!
//! RFC 3261 19.1.1 (user part), 19.1.4 (escapes).

/// The longest user part that is looked up; what is longer is no extension of ours.
pub const USER_BYTES_MAX: usize = 64;

/// Where an INVITE goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An extension, to be looked up.
    Extension(String),
    /// A service number of the switchboard: it needs no look-up.
    Service(String),
    /// Nothing that could exist: 404.
    Nowhere,
}

/// Reads the user part of a Request-URI. `services` are the numbers that Nebula itself answers.
pub fn target(user: Option<&str>, services: &[String]) -> Target {
    let Some(dialled) = user.and_then(unescape) else { return Target::Nowhere };
    // Parameters of a telephone number (RFC 3261 19.1.6) and a password are not part of it.
    let dialled = dialled.split([';', ':']).next().unwrap_or_default();
    if dialled.is_empty() || dialled.len() > USER_BYTES_MAX {
        Target::Nowhere
    } else if !dialled.starts_with('*') {
        Target::Extension(dialled.to_owned())
    } else if services.iter().any(|number| number == dialled) {
        Target::Service(dialled.to_owned())
    } else {
        Target::Nowhere
    }
}

/// Undoes `%2A` and its like; none if what comes out is no text, or control characters.
fn unescape(user: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(user.len());
    let mut rest = user.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|user| !user.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialled_strings_find_their_target() {
        let services = ["*43".to_owned()];
        let extension = |user: &str| Target::Extension(user.to_owned());
        for (user, expected) in [
            (Some("1001"), extension("1001")),
            (Some("alice"), extension("alice")),
            (Some("%31001"), extension("1001")),
            (Some("1001;phone-context=x"), extension("1001")),
            (Some("*43"), Target::Service("*43".to_owned())),
            (Some("%2A43"), Target::Service("*43".to_owned())),
            (Some("%2a43"), Target::Service("*43".to_owned())),
            (Some("*44"), Target::Nowhere),
            (Some("*"), Target::Nowhere),
            (Some(""), Target::Nowhere),
            (Some("%"), Target::Nowhere),
            (Some("%ff"), Target::Nowhere),
            (Some("%0d%0a"), Target::Nowhere),
            (None, Target::Nowhere),
        ] {
            assert_eq!(target(user, &services), expected, "{user:?}");
        }
        assert_eq!(target(Some(&"1".repeat(65)), &services), Target::Nowhere);
    }
}
