//! Key presses in INFO bodies: `application/dtmf-relay` (`Signal=5`, `Duration=160`) and `application/dtmf` (`5`).
//!
//! Neither has an RFC; RFC 6086 calls them legacy INFO usage. Pure functions, called by the edge.

/// How long a key counts as held when the body does not say.
pub const DURATION_MS_DEFAULT: u32 = 160;
/// No key is held longer than this; a larger claim is cut.
pub const DURATION_MS_MAX: u32 = 10_000;
/// The type of the INFO we send, and one of the two we take.
pub const TYPE_RELAY: &str = "application/dtmf-relay";
/// The other type that we take.
pub const TYPE_PLAIN: &str = "application/dtmf";

/// What an INFO carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info {
    /// A key press.
    Key {
        /// One of `0-9*#A-D`.
        digit: char,
        /// How long it was held.
        duration_ms: u32,
    },
    /// Nothing: a keep-alive of older phones.
    Empty,
    /// A type we take, but not readable as a key press.
    Malformed,
    /// A type we don't take.
    Unsupported,
}

/// Reads the body of an INFO.
pub fn read(content_type: Option<&str>, body: &[u8]) -> Info {
    if body.is_empty() {
        return Info::Empty;
    }
    let media_type = content_type.unwrap_or("").split(';').next().unwrap_or("").trim();
    let Ok(text) = std::str::from_utf8(body) else { return Info::Malformed };
    if media_type.eq_ignore_ascii_case(TYPE_RELAY) {
        read_relay(text)
    } else if media_type.eq_ignore_ascii_case(TYPE_PLAIN) {
        key(text.trim(), DURATION_MS_DEFAULT)
    } else {
        Info::Unsupported
    }
}

/// Whether it is one of `0-9*#A-D`.
pub fn is_key(digit: char) -> bool {
    matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D')
}

/// Writes an `application/dtmf-relay` body.
pub fn write(digit: char, duration_ms: u32) -> String {
    format!("Signal={digit}\r\nDuration={}\r\n", duration_ms.clamp(1, DURATION_MS_MAX))
}

fn read_relay(text: &str) -> Info {
    let mut signal = None;
    let mut duration_ms = DURATION_MS_DEFAULT;
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        match name.trim() {
            name if name.eq_ignore_ascii_case("signal") => signal = Some(value.trim()),
            name if name.eq_ignore_ascii_case("duration") => {
                duration_ms = value.trim().parse().unwrap_or(DURATION_MS_DEFAULT);
            }
            _ => {}
        }
    }
    signal.map_or(Info::Malformed, |signal| key(signal, duration_ms))
}

/// Reads one key; `10` and `11` are the star and the hash of RFC 4733's event numbers, which some phones send.
fn key(signal: &str, duration_ms: u32) -> Info {
    let digit = match signal {
        "10" => '*',
        "11" => '#',
        "12" => 'A',
        "13" => 'B',
        "14" => 'C',
        "15" => 'D',
        _ => {
            let mut chars = signal.chars();
            match (chars.next().map(|c| c.to_ascii_uppercase()), chars.next()) {
                (Some(c), None) if is_key(c) => c,
                _ => return Info::Malformed,
            }
        }
    };
    Info::Key { digit, duration_ms: duration_ms.clamp(1, DURATION_MS_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_types_are_read() {
        let relay = read(Some("application/dtmf-relay"), b"Signal=5\r\nDuration=250\r\n");
        assert_eq!(relay, Info::Key { digit: '5', duration_ms: 250 });
        let spaced = read(Some("Application/DTMF-Relay; charset=x"), b"signal = d\nduration = 80");
        assert_eq!(spaced, Info::Key { digit: 'D', duration_ms: 80 });
        let plain = read(Some("application/dtmf"), b"#\r\n");
        assert_eq!(plain, Info::Key { digit: '#', duration_ms: DURATION_MS_DEFAULT });
        assert_eq!(read(Some("application/dtmf"), b"10"), Info::Key { digit: '*', duration_ms: DURATION_MS_DEFAULT });
    }

    #[test]
    fn what_we_write_we_read() {
        for digit in "0123456789*#ABCD".chars() {
            let body = write(digit, 120);
            assert_eq!(read(Some(TYPE_RELAY), body.as_bytes()), Info::Key { digit, duration_ms: 120 });
        }
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(read(None, b""), Info::Empty);
        assert_eq!(read(Some("text/plain"), b"5"), Info::Unsupported);
        assert_eq!(read(None, b"5"), Info::Unsupported);
        assert_eq!(read(Some(TYPE_RELAY), b"Duration=5"), Info::Malformed);
        assert_eq!(read(Some(TYPE_RELAY), b"Signal=55"), Info::Malformed);
        assert_eq!(read(Some(TYPE_PLAIN), &[0xff, 0xfe]), Info::Malformed);
        let huge = read(Some(TYPE_RELAY), b"Signal=1\r\nDuration=4000000000");
        assert_eq!(huge, Info::Key { digit: '1', duration_ms: DURATION_MS_MAX });
    }
}
