//! The names of all keys. Those that one script touches share a hash tag, so that a cluster keeps them in one slot: all
//! of a role in one, all that everybody reads in another.

use crate::contract::{InstanceId, Role};

/// What has a slot of its own in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Events, news of the registry, replies.
    Shared,
    /// Inboxes, announcements, snapshots and fences of a role.
    Role(Role),
}

/// All roles, in no certain order.
pub(super) const ROLES: [Role; 4] = [Role::Proxy, Role::Switchboard, Role::Media, Role::Api];

/// Names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        // Braces of the operator's would be taken for the hash tag.
        Self { prefix: prefix.replace(['{', '}'], "_") }
    }

    /// The hash tag, with its braces.
    pub fn tag(&self, place: Place) -> String {
        match place {
            Place::Shared => format!("{{{}}}", self.prefix),
            Place::Role(role) => format!("{{{}:{}}}", self.prefix, role.name()),
        }
    }

    /// Stream: every event, for everybody.
    pub fn events(&self) -> String {
        format!("{}:events", self.tag(Place::Shared))
    }

    /// Stream: announcements as they change, for everybody.
    pub fn news(&self) -> String {
        format!("{}:news", self.tag(Place::Shared))
    }

    /// Stream: the replies to one process.
    pub fn replies(&self, process: &str) -> String {
        format!("{}:replies:{process}", self.tag(Place::Shared))
    }

    /// Stream with the service's consumer group: the requests to one instance.
    pub fn inbox(&self, role: Role, instance: &InstanceId) -> String {
        format!("{}:inbox:{instance}", self.tag(Place::Role(role)))
    }

    /// Hash with a time to live: an instance's announcement and number. It lives as long as this does.
    pub fn instance(&self, role: Role, instance: &InstanceId) -> String {
        format!("{}:instance:{instance}", self.tag(Place::Role(role)))
    }

    /// Set: the names of all instances that were announced and did not take their leave.
    pub fn instances(&self, role: Role) -> String {
        format!("{}:instances", self.tag(Place::Role(role)))
    }

    /// Hash: an instance's snapshots.
    pub fn kept(&self, place: Place, instance: &InstanceId) -> String {
        format!("{}:kept:{instance}", self.tag(place))
    }

    /// Hash: the fence of each name that keeps snapshots.
    pub fn fences(&self, place: Place) -> String {
        format!("{}:fences", self.tag(place))
    }
}

/// The slot of a key (the cluster specification): CRC-16/XMODEM of its hash tag, or of all of it, in 14 bits.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The specification's own check value, 0x31C3 in 14 bits, and what CLUSTER KEYSLOT says.
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{}{bar}"), 8363);
        assert_eq!(slot(""), 0);
    }

    #[test]
    fn what_a_script_touches_is_in_one_slot() {
        let keys = Keys::new("neb{ula");
        let (a, b) = (InstanceId::from("proxy-a"), InstanceId::from("proxy-{b}"));
        let role = Role::Proxy;
        let of_role = [
            keys.inbox(role, &a),
            keys.inbox(role, &b),
            keys.instance(role, &a),
            keys.instances(role),
            keys.kept(Place::Role(role), &b),
            keys.fences(Place::Role(role)),
        ];
        assert!(of_role.iter().all(|key| slot(key) == slot(&of_role[0])), "{of_role:?}");
        let shared = [keys.events(), keys.news(), keys.replies("x")];
        assert!(shared.iter().all(|key| slot(key) == slot(&shared[0])), "{shared:?}");
    }
}
