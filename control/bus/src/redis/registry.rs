//! Announces the instances of this process, reads who else is there, and takes up what the dead have left.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, Value};
use tokio::time::{Instant, sleep, timeout};

use super::core::{Core, GROUP, Serving, text};
use super::entry::{News, news, reply};
use super::keys::{Place, ROLES};
use super::link::Live;
use super::scripts::{ANNOUNCE, CLAIM, LEAVE, LIST};
use super::view::Reading;
use crate::Error;
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::limits::READ_ENTRIES_MAX;
use crate::registry::Announcement;

/// Signs of life in one lease: some may be late or lost before an instance looks dead.
const BEATS_PER_LEASE: u32 = 5;
/// Changes of load are told at most so often.
const GATHER: Duration = Duration::from_millis(10);
/// The registry is read at most so rarely.
const READ_EVERY_MAX: Duration = Duration::from_secs(1);
/// Past deadlines are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_millis(50);

/// Announces for as long as the bus lives: what changed at once, everything at every beat and after Redis was away.
pub(super) async fn announce(core: Arc<Core>) {
    let every = core.options.lease / BEATS_PER_LEASE;
    let mut last_beat: Option<Instant> = None;
    let mut generations = Vec::new();
    loop {
        // Whatever is heard here of a connection that is down, is said again when it is up.
        let up: Vec<u64> =
            core.lanes.all().iter().map(|lane| lane.link.live().map_or(0, |live| live.generation)).collect();
        let beats = up != generations || last_beat.is_none_or(|at| at.elapsed() >= every);
        if beats {
            last_beat = Some(Instant::now());
        }
        generations = up;
        for (role, instance) in due(&core, beats) {
            tell(&core, role, &instance).await;
        }
        if beats && let Ok(live) = core.lanes.of(Place::Shared).link.live() {
            // The next beat does it again.
            let _ = super::shared::prepare(&core, &live).await;
        }
        sleep(GATHER).await;
        let _ = timeout(every / 4, core.announce.notified()).await;
    }
}

/// Whom to announce now.
fn due(core: &Core, beats: bool) -> Vec<(Role, InstanceId)> {
    let mut serving = core.serving();
    let due = serving.iter_mut().filter(|(_, serving)| beats || serving.fresh);
    due.map(|(key, serving)| {
        serving.fresh = false;
        key.clone()
    })
    .collect()
}

async fn tell(core: &Arc<Core>, role: Role, instance: &InstanceId) {
    let key = (role, instance.clone());
    let Some((announcement, number)) =
        core.serving().get(&key).map(|serving| (serving.announcement.clone(), serving.number))
    else {
        return;
    };
    let Ok(live) = core.lanes.of(Place::Role(role)).link.live() else { return };
    match announced(core, &live, role, instance, &announcement, number).await {
        Ok(Told::Number(given)) => {
            let still_there = core.serving().get_mut(&key).map(|serving| serving.number = given).is_some();
            if still_there {
                spread(
                    core,
                    News { role, instance: instance.clone(), number: given, announcement: Some(announcement) },
                );
            }
        }
        Ok(Told::Replaced(by)) => replaced(core, role, instance, by),
        Err(error) => {
            core.lanes.of(Place::Role(role)).link.failed(live.generation, &error);
            // Again at the next turn.
            if let Some(serving) = core.serving().get_mut(&key) {
                serving.fresh = true;
            }
        }
    }
}

enum Told {
    Number(u64),
    Replaced(u64),
}

async fn announced(
    core: &Core,
    live: &Live,
    role: Role,
    instance: &InstanceId,
    announcement: &Announcement,
    number: u64,
) -> Result<Told, RedisError> {
    let keys = &core.keys;
    let mut invocation = ANNOUNCE.prepare_invoke();
    invocation.key(keys.instance(role, instance)).key(keys.instances(role)).key(keys.inbox(role, instance));
    // Text, numbers and a flag: nothing in it that serde_json can refuse.
    invocation.arg(instance.as_str()).arg(number).arg(serde_json::to_vec(announcement).unwrap_or_default());
    invocation.arg(u64::try_from(core.options.lease.as_millis()).unwrap_or(u64::MAX)).arg(GROUP);
    let mut connection = live.connection.clone();
    let (given, by, s, us): (u64, String, u64, u64) = invocation.invoke_async(&mut connection).await?;
    core.clock.set(s * 1000 + us / 1000);
    Ok(if given == 0 { Told::Replaced(by.parse().unwrap_or(0)) } else { Told::Number(given) })
}

fn spread(core: &Core, told: News) {
    let lane = core.lanes.of(Place::Shared);
    // Whoever misses it reads the registry within a second.
    lane.writer.push(news(&core.keys.news(), &told), drop);
}

/// Another process may have taken the name of one of ours: a higher number is the newer.
pub(super) fn replaced_by(core: &Core, told: &News) {
    let key = (told.role, told.instance.clone());
    let ours = core.serving().get(&key).map(|serving| serving.number);
    if ours.is_some_and(|number| number != 0 && number < told.number) {
        replaced(core, told.role, &told.instance, told.number);
    }
}

fn replaced(core: &Core, role: Role, instance: &InstanceId, by: u64) {
    let mut serving = core.serving();
    let key = (role, instance.clone());
    if serving.get(&key).is_some_and(|serving| serving.number < by)
        && let Some(old) = serving.remove(&key)
    {
        old.reader.abort();
        tracing::error!(%instance, "another process serves under this name now; this one is served no more");
    }
}

/// Takes an instance out; what it has not read is answered, so that no caller waits for nobody.
pub(super) async fn leave(core: Arc<Core>, role: Role, instance: InstanceId, left: Serving) {
    let link = &core.lanes.of(Place::Role(role)).link;
    let Ok(live) = link.live() else { return };
    let keys = &core.keys;
    let mut invocation = LEAVE.prepare_invoke();
    invocation.key(keys.instance(role, &instance)).key(keys.instances(role)).key(keys.inbox(role, &instance));
    invocation.arg(instance.as_str()).arg(left.number);
    let mut connection = live.connection.clone();
    let unread: Value = match invocation.invoke_async(&mut connection).await {
        Ok(unread) => unread,
        Err(error) => return drop(link.failed(live.generation, &error)),
    };
    spread(&core, News { role, instance, number: left.number, announcement: None });
    let gone = Err(Error::transient(code::UNAVAILABLE, "the instance went away before it took the request"));
    for entry in super::entry::entries(unread) {
        let taken = super::core::lock(&left.taken).contains(&entry.id);
        if let Some((process, number)) = super::entry::read_request(entry).and_then(|request| request.from)
            && !taken
        {
            let lane = core.lanes.of(Place::Shared);
            lane.writer.push(reply(&core.keys.replies(&process), number, &gone), drop);
        }
    }
}

/// Reads the registry for as long as the bus lives, and takes up what the dead have left.
pub(super) async fn watch(core: Arc<Core>) {
    let every = (core.options.lease / BEATS_PER_LEASE).min(READ_EVERY_MAX);
    loop {
        sleep(every).await;
        for role in ROLES {
            let link = &core.lanes.of(Place::Role(role)).link;
            match link.live() {
                Ok(live) => {
                    if let Err(error) = read(&core, &live, role).await {
                        link.failed(live.generation, &error);
                    }
                }
                Err(_) => core.view().pardon(Instant::now()),
            }
        }
    }
}

/// Reads a role's registry once.
pub(super) async fn read(core: &Arc<Core>, live: &Live, role: Role) -> Result<(), RedisError> {
    let mut connection = live.connection.clone();
    let begins = format!("{}:instance:", core.keys.tag(Place::Role(role)));
    let all: Vec<Value> = LIST.key(core.keys.instances(role)).arg(begins).invoke_async(&mut connection).await?;
    let mut readings = Vec::new();
    let mut without_life = Vec::new();
    for one in all {
        let Value::Array(parts) = one else { continue };
        match &parts[..] {
            [name] => without_life.extend(text(name).map(InstanceId::from)),
            [name, number, beat, announcement] => readings.extend(reading(name, number, beat, announcement)),
            _ => core.counters.malformed(),
        }
    }
    let now = Instant::now();
    let gone = core.view().read(role, readings, now);
    for instance in &gone {
        tracing::warn!(%instance, "no sign of life for as long as its lease");
        core.pending.breakers(|breakers| breakers.forget(instance));
    }
    // Right after Redis came back, the living may not have announced themselves yet.
    if live.since.elapsed() >= core.options.lease {
        for dead in without_life {
            if !core.view().knows(role, &dead) {
                claim(core, live, role, &dead).await?;
            }
        }
    }
    Ok(())
}

/// Moves what a dead instance had not answered to one of ours that takes new requests.
async fn claim(core: &Arc<Core>, live: &Live, role: Role, dead: &InstanceId) -> Result<(), RedisError> {
    let heir = core.serving().iter().find_map(|((of, id), serving)| {
        (*of == role && id != dead && !serving.announcement.draining && serving.number != 0).then(|| id.clone())
    });
    let Some(heir) = heir else { return Ok(()) };
    let keys = &core.keys;
    let mut connection = live.connection.clone();
    loop {
        let mut invocation = CLAIM.prepare_invoke();
        invocation.key(keys.instance(role, dead)).key(keys.inbox(role, dead)).key(keys.inbox(role, &heir));
        invocation.key(keys.instances(role)).arg(dead.as_str()).arg(READ_ENTRIES_MAX);
        let (moved, dropped): (usize, usize) = invocation.invoke_async(&mut connection).await?;
        (0..moved).for_each(|_| core.counters.claimed());
        if moved + dropped > 0 {
            tracing::warn!(%dead, %heir, moved, dropped, "took up what a dead instance had not answered");
        }
        if moved + dropped < READ_ENTRIES_MAX {
            return Ok(());
        }
    }
}

/// Gives up requests past their deadlines, and what an absent Redis makes hopeless.
pub(super) async fn sweep(core: Arc<Core>) {
    loop {
        sleep(SWEEP_EVERY).await;
        for callee in core.pending.sweep(Instant::now()) {
            tracing::warn!(%callee, "it does not answer; requests to it fail at once for a while");
        }
    }
}

/// When a connection goes, its requests go at once; when one comes, what waited is sent.
pub(super) async fn follow(core: Arc<Core>, link: Arc<super::link::Link>) {
    loop {
        let live = link.up().await;
        core.view().pardon(Instant::now());
        core.send_again();
        core.announce.notify_one();
        link.gone(live.generation).await;
        core.counters.lost();
        core.pending.refuse_all(&Error::transient(code::UNAVAILABLE, "Redis went away with the request under way"));
    }
}

/// A value as a reading; none if it is not one of ours.
fn reading(name: &Value, number: &Value, beat: &Value, announcement: &Value) -> Option<Reading> {
    Some(Reading {
        instance: text(name)?.into(),
        number: text(number)?.parse().ok()?,
        beat: text(beat)?.parse().ok()?,
        announcement: serde_json::from_str(text(announcement)?).ok()?,
    })
}
