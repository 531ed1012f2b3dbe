//! Who is there, as this process knows it: by news as they are told, and by the registry as it is read each second.
//! Sans-IO: news, readings and the time go in. Only this host's monotonic clock decides that somebody is dead: the time
//! to live of a key follows Redis' wall clock, which may jump.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Breakers;
use super::entry::News;
use crate::contract::{InstanceId, Role};
use crate::limits::CHOICES_MAX;
use crate::registry::{Announcement, pick};

/// See the module.
pub(super) struct View {
    lease: Duration,
    instances: HashMap<(Role, InstanceId), Seen>,
    /// Whom a request with a key went to, so that its retry finds the instance that may have acted.
    chosen: HashMap<String, InstanceId>,
    chosen_order: VecDeque<String>,
    turn: usize,
}

struct Seen {
    announcement: Announcement,
    number: u64,
    beat: u64,
    /// The last sign of life.
    heard: Instant,
}

/// An instance as the registry has it.
pub(super) struct Reading {
    pub instance: InstanceId,
    pub number: u64,
    /// Rises with each sign of life.
    pub beat: u64,
    pub announcement: Announcement,
}

impl View {
    pub fn new(lease: Duration) -> Self {
        let (instances, chosen, chosen_order) = Default::default();
        Self { lease, instances, chosen, chosen_order, turn: 0 }
    }

    /// Something was told. True if the name belongs to another process than before, or to none.
    pub fn hear(&mut self, news: News, now: Instant) -> bool {
        let key = (news.role, news.instance);
        let known = self.instances.get(&key).map(|seen| seen.number);
        if known.is_some_and(|known| known > news.number) {
            return false;
        }
        let Some(announcement) = news.announcement else { return self.instances.remove(&key).is_some() };
        let beat = self.instances.get(&key).map_or(0, |seen| seen.beat);
        self.instances.insert(key, Seen { announcement, number: news.number, beat, heard: now });
        known.is_some_and(|known| known != news.number)
    }

    /// All of a role was read. What the registry has lost goes once it was not heard of for as long as a lease. Returns
    /// who went.
    pub fn read(&mut self, role: Role, readings: Vec<Reading>, now: Instant) -> Vec<InstanceId> {
        for reading in readings {
            let Reading { instance, number, beat, announcement } = reading;
            match self.instances.get_mut(&(role, instance.clone())) {
                Some(seen) if seen.number > number => {}
                Some(seen) => {
                    // Without a beat it is no news, and the load that was guessed since is better.
                    if (seen.number, seen.beat) != (number, beat) {
                        *seen = Seen { announcement, number, beat, heard: now };
                    }
                }
                None => {
                    self.instances.insert((role, instance), Seen { announcement, number, beat, heard: now });
                }
            }
        }
        let mut gone = Vec::new();
        let lease = self.lease;
        self.instances.retain(|(of, instance), seen| {
            let stays = *of != role || now < seen.heard + lease;
            if !stays {
                gone.push(instance.clone());
            }
            stays
        });
        gone
    }

    /// The registry could not be read for a while: nobody is dead for that.
    pub fn pardon(&mut self, now: Instant) {
        self.instances.values_mut().for_each(|seen| seen.heard = now);
    }

    pub fn knows(&self, role: Role, instance: &InstanceId) -> bool {
        self.instances.contains_key(&(role, instance.clone()))
    }

    pub fn announcements(&self, role: Role) -> Vec<Announcement> {
        let of_role = self.instances.iter().filter(|((of, _), _)| *of == role);
        of_role.map(|(_, seen)| seen.announcement.clone()).collect()
    }

    /// The least loaded willing instance whose breaker is not shut; for a key that was seen before, the same again. It
    /// counts as more loaded by one until it says how it is.
    pub fn choose(&mut self, role: Role, key: Option<&str>, breakers: &Breakers, now: Instant) -> Option<InstanceId> {
        if let Some(before) = key.and_then(|key| self.chosen.get(key))
            && self.instances.contains_key(&(role, before.clone()))
        {
            return Some(before.clone());
        }
        let of_role = self.instances.iter().filter(|((of, id), _)| *of == role && !breakers.is_shut(id, now));
        // In the order of the names, so that turns go round.
        let mut entries: Vec<_> = of_role.map(|((_, id), seen)| (&seen.announcement, id)).collect();
        entries.sort_unstable_by_key(|(_, id)| *id);
        self.turn = self.turn.wrapping_add(1);
        let chosen = pick(entries.into_iter(), self.turn)?.clone();
        if let Some(seen) = self.instances.get_mut(&(role, chosen.clone())) {
            seen.announcement.load += 1;
        }
        if let Some(key) = key {
            self.remember(key, chosen.clone());
        }
        Some(chosen)
    }

    fn remember(&mut self, key: &str, chosen: InstanceId) {
        if self.chosen.insert(key.to_owned(), chosen).is_none() {
            self.chosen_order.push_back(key.to_owned());
        }
        if self.chosen_order.len() > CHOICES_MAX
            && let Some(oldest) = self.chosen_order.pop_front()
        {
            self.chosen.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn news(id: &str, number: u64, load: Option<u64>) -> News {
        let announcement = load.map(|load| Announcement::new(Role::Proxy, id.into(), "1").load(load));
        News { role: Role::Proxy, instance: id.into(), number, announcement }
    }

    fn reading(id: &str, number: u64, beat: u64) -> Reading {
        let announcement = Announcement::new(Role::Proxy, id.into(), "1");
        Reading { instance: id.into(), number, beat, announcement }
    }

    #[test]
    fn a_burst_is_spread_before_anybody_says_how_loaded_it_is() {
        let (mut view, now, breakers) = (View::new(LEASE), Instant::now(), Breakers::default());
        view.hear(news("a", 1, Some(0)), now);
        view.hear(news("b", 1, Some(2)), now);
        let mut choose = |key: Option<&str>| view.choose(Role::Proxy, key, &breakers, now).unwrap().0;
        let mut got: Vec<_> = (0..6).map(|_| choose(None)).collect();
        assert_eq!(got[..2], ["a", "a"]);
        got.sort();
        assert_eq!(got, ["a", "a", "a", "a", "b", "b"]);
        let first = choose(Some("k"));
        assert_eq!((choose(Some("k")), choose(Some("k"))), (first.clone(), first));
        assert_eq!(view.choose(Role::Media, None, &breakers, now), None);
    }

    #[test]
    fn a_chosen_one_that_died_is_chosen_no_more() {
        let (mut view, now, mut breakers) = (View::new(LEASE), Instant::now(), Breakers::default());
        view.hear(news("a", 1, Some(0)), now);
        view.hear(news("b", 1, Some(9)), now);
        assert_eq!(view.choose(Role::Proxy, Some("k"), &breakers, now), Some("a".into()));
        for _ in 0..crate::limits::BREAKER_FAILURES_MAX {
            breakers.failed(&"a".into(), now);
        }
        assert_eq!(view.choose(Role::Proxy, None, &breakers, now), Some("b".into()));
        assert!(view.hear(news("a", 1, None), now));
        assert_eq!(view.choose(Role::Proxy, Some("k"), &breakers, now), Some("b".into()));
    }

    #[test]
    fn the_registry_forgets_nobody_who_was_heard_of() {
        let (mut view, start) = (View::new(LEASE), Instant::now());
        assert!(view.read(Role::Proxy, vec![reading("a", 1, 1)], start).is_empty());
        // Its key is gone because a clock jumped; then it beats again.
        assert!(view.read(Role::Proxy, vec![], start + LEASE / 2).is_empty());
        assert!(view.read(Role::Proxy, vec![reading("a", 1, 2)], start + LEASE / 2).is_empty());
        // A key that stays without a beat is no life.
        let end = start + LEASE / 2 + LEASE;
        assert_eq!(view.read(Role::Proxy, vec![reading("a", 1, 2)], end), ["a".into()]);
        assert!(!view.knows(Role::Proxy, &"a".into()));
    }

    #[test]
    fn the_newest_process_of_a_name_counts() {
        let (mut view, now) = (View::new(LEASE), Instant::now());
        assert!(!view.hear(news("a", 7, Some(1)), now));
        assert!(!view.hear(news("a", 6, Some(5)), now));
        assert_eq!(view.announcements(Role::Proxy)[0].load, 1);
        assert!(!view.hear(news("a", 6, None), now));
        assert!(view.hear(news("a", 8, Some(2)), now));
        assert!(view.hear(news("a", 8, None), now));
        assert!(view.announcements(Role::Proxy).is_empty());
    }
}
