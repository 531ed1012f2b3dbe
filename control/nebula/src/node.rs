//! This host's name in a fleet: a role is known as ROLE-NODE, and after a restart by the same name.

use std::path::Path;

/// What a node's name may be, for people.
pub const RIGHT: &str = "1 to 64 letters, digits and -_. are allowed";

const LENGTH_MAX: usize = 64;

/// Where the kernel tells the host's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Whether a text may be a node's name.
pub fn is_one(text: &str) -> bool {
    (1..=LENGTH_MAX).contains(&text.len()) && text.chars().all(is_right)
}

/// The host's name, as a node's name.
pub fn of_host() -> String {
    let name = std::fs::read_to_string(Path::new(HOST_NAME)).unwrap_or_default();
    from(name.trim())
}

fn from(name: &str) -> String {
    let name: String = name.chars().map(|c| if is_right(c) { c } else { '-' }).take(LENGTH_MAX).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

fn is_right(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_has_a_name_that_a_node_may_have() {
        assert!(is_one(&of_host()));
        for (name, node) in [("pbx-1.example", "pbx-1.example"), ("", "localhost"), ("h\u{f6}st 1", "h-st-1")] {
            assert_eq!(from(name), node);
        }
        assert_eq!(from(&"a".repeat(100)).len(), LENGTH_MAX);
        assert!(!is_one("") && !is_one("a b") && !is_one("a/b"));
    }
}
