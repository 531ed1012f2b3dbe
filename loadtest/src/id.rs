//! Branches, tags and Call-IDs.

use std::fmt::Write;

/// 64 random bits in hexadecimal.
pub fn random_id() -> String {
    let mut bytes = [0; 8];
    // Without randomness ids would collide and calls would be mixed up: better to stop at once.
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes.iter().fold(String::with_capacity(16), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string works");
        text
    })
}
