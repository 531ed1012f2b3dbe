//! Who has been there, and since when they are not: sans-IO. A look around hands in who serves now. The bus does not count
//! anybody out while its own registry cannot be read.

use std::collections::HashMap;
use std::time::Duration;

use nebula_bus::contract::{InstanceId, Role};
use tokio::time::Instant;

/// Names remembered at most; the next one is not watched. Far more than there are hosts.
const KNOWN_MAX: usize = 10_000;

/// Instances of other roles, each with the moment it was first missed.
#[derive(Debug, Default)]
pub(super) struct Presence {
    known: HashMap<(Role, InstanceId), Option<Instant>>,
}

impl Presence {
    /// Somebody that matters: from now on it is seen when it goes.
    pub fn note(&mut self, role: Role, instance: &InstanceId) {
        if self.known.len() < KNOWN_MAX && !self.known.contains_key(&(role, instance.clone())) {
            self.known.insert((role, instance.clone()), None);
        }
    }

    /// Somebody that does not matter any more.
    pub fn forget(&mut self, role: Role, instance: &InstanceId) {
        self.known.remove(&(role, instance.clone()));
    }

    /// A look around: all of a role that serve now. Returns who was missed and is back.
    pub fn look(&mut self, role: Role, living: &[InstanceId], now: Instant) -> Vec<InstanceId> {
        living.iter().for_each(|instance| self.note(role, instance));
        let mut back = Vec::new();
        for ((of, instance), missed) in self.known.iter_mut().filter(|((of, _), _)| *of == role) {
            debug_assert_eq!(*of, role);
            if living.contains(instance) {
                if missed.take().is_some() {
                    back.push(instance.clone());
                }
            } else {
                missed.get_or_insert(now);
            }
        }
        back
    }

    /// Who of a role has been missed for so long.
    pub fn missed(&self, role: Role, for_long: Duration, now: Instant) -> Vec<InstanceId> {
        let missed = self.known.iter().filter(|((of, _), missed)| {
            *of == role && missed.is_some_and(|since| now.saturating_duration_since(since) >= for_long)
        });
        missed.map(|((_, instance), _)| instance.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_is_missed_until_it_is_back() {
        let (mut presence, start) = (Presence::default(), Instant::now());
        let [a, b] = [InstanceId::from("a"), InstanceId::from("b")];
        let at = |s| start + Duration::from_secs(s);
        let second = Duration::from_secs(1);
        presence.note(Role::Proxy, &b);
        assert!(presence.look(Role::Proxy, &[a.clone(), b.clone()], at(0)).is_empty());
        assert!(presence.look(Role::Proxy, std::slice::from_ref(&b), at(1)).is_empty());
        assert!(presence.look(Role::Media, &[], at(1)).is_empty());
        assert_eq!(presence.missed(Role::Proxy, second, at(1)), []);
        assert_eq!(presence.missed(Role::Proxy, second, at(2)), std::slice::from_ref(&a));
        assert_eq!(presence.look(Role::Proxy, std::slice::from_ref(&a), at(3)), std::slice::from_ref(&a));
        assert_eq!(presence.missed(Role::Proxy, Duration::ZERO, at(3)), std::slice::from_ref(&b));
        presence.forget(Role::Proxy, &b);
        assert_eq!(presence.missed(Role::Proxy, Duration::ZERO, at(9)), []);
    }
}
