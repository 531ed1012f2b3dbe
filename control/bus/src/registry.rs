//! Who is there: instances announce themselves, requests to a service are routed by it.

use serde::{Deserialize, Serialize};

use crate::contract::{InstanceId, Role};

/// What an instance tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announcement {
    /// Its role.
    pub role: Role,
    /// Its id.
    pub instance: InstanceId,
    /// How busy it is: calls, channels or streams it owns. Requests to the service go to the least.
    pub load: u64,
    /// The binary's version.
    pub version: String,
    /// It takes nothing new: only requests addressed to it reach it.
    pub draining: bool,
}

impl Announcement {
    /// An idle, willing instance.
    pub fn new(role: Role, instance: InstanceId, version: impl Into<String>) -> Self {
        Self { role, instance, load: 0, version: version.into(), draining: false }
    }

    /// The same with this load.
    pub fn load(mut self, load: u64) -> Self {
        self.load = load;
        self
    }

    /// The same, draining or not.
    pub fn draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }
}

/// Picks the least loaded instance that is not draining; among equals the `turn`-th, so that they take turns.
pub(crate) fn pick<'a, T>(entries: impl Iterator<Item = (&'a Announcement, T)> + Clone, turn: usize) -> Option<T> {
    let willing = entries.filter(|(announcement, _)| !announcement.draining);
    let least = willing.clone().map(|(announcement, _)| announcement.load).min()?;
    let equals = willing.filter(|(announcement, _)| announcement.load == least);
    let count = equals.clone().count();
    equals.map(|(_, value)| value).nth(turn % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(id: &str, load: u64, draining: bool) -> Announcement {
        Announcement::new(Role::Proxy, id.into(), "1").load(load).draining(draining)
    }

    #[test]
    fn equals_take_turns_and_the_draining_are_passed_over() {
        let all = [
            announcement("a", 2, false),
            announcement("b", 2, false),
            announcement("c", 9, false),
            announcement("d", 0, true),
        ];
        let pick_at = |turn| pick(all.iter().map(|a| (a, a.instance.as_str())), turn);
        assert_eq!([pick_at(0), pick_at(1), pick_at(2)], [Some("a"), Some("b"), Some("a")]);
        assert_eq!(pick(all[3..].iter().map(|a| (a, ())), 0), None);
    }
}
