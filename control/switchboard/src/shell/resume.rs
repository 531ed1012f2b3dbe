//! Calls of a process that died: taken up from its snapshots, at the start those of our predecessor, later those of other
//! switchboards that are gone. Proxies and media agents are told whose they are now and say what is left of them; the
//! machine repairs each call by that (`call/resume.rs`). Here is also who is missed, and for how long.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nebula_bus::contract::to_media::{AdoptStreams, StreamAdopt};
use nebula_bus::contract::to_proxy::{Adopt, ChannelAdopt, Phase};
use nebula_bus::contract::{CallId, ChannelId, InstanceId, Role, StreamId};
use nebula_bus::snapshots::{KeepError, Kept, Unreadable};
use nebula_bus::{Context, Error, Target};
use nebula_store::calls::{self, CallRow};
use tokio::time::{Instant, sleep};

use super::rpc::{failure, persist};
use super::{Key, Shell, Work, crash};
use crate::call::{Call, Failure, Input};

/// Legs or streams that one request adopts at most.
const ADOPTED_AT_ONCE: usize = 500;
/// Between attempts to read the rows of living calls at the start.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Rows without an end are looked for so often: one may be written after its owner died.
const SWEEP_AGAIN: Duration = Duration::from_secs(300);
/// What our keys begin with.
const PREFIX: &str = "call/";

/// The key of a call's snapshot.
pub(super) fn name(call_id: &CallId) -> String {
    format!("{PREFIX}{call_id}")
}

/// The end of something that was begun here.
pub(super) enum Done {
    /// Rows without an end, of all owners.
    Orphans(Vec<CallRow>),
    /// An attempt to take over from a dead switchboard.
    TookOver { dead: InstanceId, result: Result<Option<Kept>, KeepError> },
    /// Rows of a dead switchboard whose calls nobody has.
    Left { dead: InstanceId, rows: Vec<CallRow> },
    /// Legs that a proxy was asked about.
    Channels { asked: Vec<(ChannelId, CallId)>, result: Result<Vec<(ChannelId, Phase)>, Error>, proxy: InstanceId },
    /// Streams that a media agent was asked about, with their calls.
    Streams { asked: Vec<Key>, result: Result<HashSet<StreamId>, Error>, media: InstanceId },
}

impl Shell {
    /// Takes up calls from what was kept. A snapshot of another version is refused by name; a damaged one is dropped, and
    /// its call is closed by its row.
    pub(super) fn take_up(&mut self, kept: Kept) -> Result<usize, Unreadable> {
        let now = self.now();
        let mut read = Vec::new();
        for (name, bytes) in kept.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            let mut effects = Vec::new();
            match Call::restore(&bytes, self.instance.clone(), self.options.timing(), now, &mut effects) {
                Ok(call) => read.push((call, effects)),
                // Before anybody has heard of the others.
                Err(error @ Unreadable::Version { .. }) => return Err(error),
                Err(error) => {
                    tracing::error!(name, %error, "a call cannot be taken up; its record will say that it crashed");
                    self.snapshots.delete(name);
                }
            }
        }
        let mut calls = Vec::with_capacity(read.len());
        for (call, effects) in read {
            if self.by_id.contains_key(call.id()) {
                continue;
            }
            let key = self.insert(call.id().clone(), call, Context::new(self.rpc_timeout()));
            self.index(key);
            calls.push((key, effects));
        }
        let taken = calls.len();
        if taken > 0 {
            tracing::warn!(calls = taken, instance = %self.instance, "takes up calls");
            self.metrics.resumed.increment(taken as u64);
        }
        // First who owns them now, then what is to be done about each.
        let keys: Vec<Key> = calls.iter().map(|(key, _)| *key).collect();
        self.adopt_channels(&keys, None);
        self.adopt_streams(&keys, None);
        for (key, mut effects) in calls {
            self.carry_out(key, &mut effects, now);
        }
        Ok(taken)
    }

    /// Tells proxies (or one) that the legs of these calls are ours.
    fn adopt_channels(&mut self, keys: &[Key], only: Option<&InstanceId>) {
        let mut by_proxy: BTreeMap<InstanceId, Vec<(ChannelId, CallId)>> = BTreeMap::new();
        for slot in keys.iter().filter_map(|key| self.calls.get(key)) {
            for leg in slot.call.legs().iter().filter(|leg| only.is_none_or(|only| leg.proxy == *only)) {
                let leg_of = (leg.channel_id.clone(), slot.call.id().clone());
                by_proxy.entry(leg.proxy.clone()).or_default().push(leg_of);
            }
        }
        for (proxy, channels) in by_proxy {
            self.presence.note(Role::Proxy, &proxy);
            for channels in channels.chunks(ADOPTED_AT_ONCE) {
                let (switchboard, fence) = (self.instance.clone(), self.fence.get());
                let adopt = Adopt { switchboard, fence, channels: channels.to_vec() };
                let (bus, timeout, patience) = (self.bus.clone(), self.rpc_timeout(), self.proxy_grace());
                let (asked, proxy) = (channels.to_vec(), proxy.clone());
                let target = Target::Instance(proxy.clone());
                let ask = move || bus.call::<ChannelAdopt>(&target, adopt.clone(), &Context::new(timeout).fence(fence));
                let first = ask();
                self.work.push(Box::pin(async move {
                    let result = persist(patience, first, ask).await.map(|adopted| adopted.channels);
                    super::Done::Resume(Done::Channels { asked, result, proxy })
                }));
            }
        }
    }

    /// The same for media agents and streams.
    fn adopt_streams(&mut self, keys: &[Key], only: Option<&InstanceId>) {
        let mut by_agent: BTreeMap<InstanceId, Vec<(StreamId, Key)>> = BTreeMap::new();
        for (key, slot) in keys.iter().filter_map(|key| Some((*key, self.calls.get(key)?))) {
            for leg in slot.call.legs() {
                if let (Some(agent), Some(stream_id)) = (leg.agent(), leg.stream_id())
                    && only.is_none_or(|only| agent == only)
                {
                    by_agent.entry(agent.clone()).or_default().push((stream_id.clone(), key));
                }
            }
        }
        for (media, streams) in by_agent {
            self.presence.note(Role::Media, &media);
            // Those of one call in one request: what it says of a call is said of all its streams.
            for streams in streams.chunk_by(|a, b| a.1 == b.1).collect::<Vec<_>>().chunks(ADOPTED_AT_ONCE / 2) {
                let streams = streams.concat();
                let (switchboard, fence) = (self.instance.clone(), self.fence.get());
                let asked: Vec<Key> = streams.iter().map(|(_, key)| *key).collect();
                let streams = streams.into_iter().map(|(stream_id, _)| stream_id).collect();
                let adopt = AdoptStreams { switchboard, fence, streams };
                let (bus, timeout, patience) = (self.bus.clone(), self.rpc_timeout(), self.media_grace());
                let (media, target) = (media.clone(), Target::Instance(media.clone()));
                let ask = move || bus.call::<StreamAdopt>(&target, adopt.clone(), &Context::new(timeout).fence(fence));
                let first = ask();
                self.work.push(Box::pin(async move {
                    let result = persist(patience, first, ask).await.map(|adopted| adopted.alive.into_iter().collect());
                    super::Done::Resume(Done::Streams { asked, result, media })
                }));
            }
        }
    }

    pub(super) fn resume_done(&mut self, done: Done) {
        match done {
            Done::Orphans(rows) => self.orphans(rows),
            Done::TookOver { dead, result } => self.took_over(dead, result),
            Done::Left { dead, rows } => {
                self.succession.remove(&dead);
                self.presence.forget(Role::Switchboard, &dead);
                self.close_left(rows);
            }
            Done::Channels { asked, result, proxy } => self.channels_adopted(asked, result, &proxy),
            Done::Streams { asked, result, media } => self.streams_adopted(asked, result, &media),
        }
    }

    fn channels_adopted(
        &mut self,
        asked: Vec<(ChannelId, CallId)>,
        result: Result<Vec<(ChannelId, Phase)>, Error>,
        proxy: &InstanceId,
    ) {
        let error = match result {
            Ok(channels) => {
                let mut by_call: HashMap<Key, Vec<(ChannelId, Phase)>> = HashMap::new();
                for (channel_id, phase) in channels {
                    if let Some(key) = self.by_channel.get(&channel_id) {
                        by_call.entry(*key).or_default().push((channel_id, phase));
                    }
                }
                by_call.into_iter().for_each(|(key, channels)| self.drive(key, Input::Adopted { channels }));
                return;
            }
            Err(error) => error,
        };
        let keys: HashSet<Key> = asked.iter().filter_map(|(_, call_id)| self.by_id.get(call_id).copied()).collect();
        let input = match failure(&error) {
            // One of them is another's: which?
            Failure::Fenced if keys.len() > 1 => {
                return keys.into_iter().for_each(|key| self.adopt_channels(&[key], Some(proxy)));
            }
            Failure::Fenced => Input::Disowned,
            _ => Input::ProxyGone { proxy: proxy.clone() },
        };
        tracing::error!(%proxy, %error, legs = asked.len(), "legs could not be taken over");
        keys.into_iter().for_each(|key| self.drive(key, input.clone()));
    }

    fn streams_adopted(&mut self, asked: Vec<Key>, result: Result<HashSet<StreamId>, Error>, media: &InstanceId) {
        let keys: HashSet<Key> = asked.into_iter().collect();
        let input = match result.map_err(|error| (failure(&error), error)) {
            Ok(alive) => Input::StreamsAdopted { media: media.clone(), alive: Arc::new(alive) },
            Err((Failure::Fenced, _)) if keys.len() > 1 => {
                return keys.into_iter().for_each(|key| self.adopt_streams(&[key], Some(media)));
            }
            Err((failure, error)) => {
                tracing::error!(%media, %error, calls = keys.len(), "streams could not be taken over");
                match failure {
                    Failure::Fenced => Input::Disowned,
                    _ => Input::MediaGone { media: media.clone() },
                }
            }
        };
        keys.into_iter().for_each(|key| self.drive(key, input.clone()));
    }

    /// Once a second: who is back, who is lost, whose calls are to be taken over.
    pub(super) fn look_around(&mut self) {
        let now = Instant::now();
        let living = |shell: &Shell, role| -> Vec<InstanceId> {
            shell.bus.instances(role).into_iter().map(|announcement| announcement.instance).collect()
        };
        for role in [Role::Proxy, Role::Media, Role::Switchboard] {
            let living = living(self, role);
            let back = self.presence.look(role, &living, now);
            let keys: Vec<Key> = if back.is_empty() { Vec::new() } else { self.calls.keys().copied().collect() };
            for instance in back {
                match role {
                    // Whatever happened to it, it says what it still has.
                    Role::Proxy => self.adopt_channels(&keys, Some(&instance)),
                    Role::Media => self.adopt_streams(&keys, Some(&instance)),
                    _ => {}
                }
            }
        }
        for proxy in self.presence.missed(Role::Proxy, self.proxy_grace(), now) {
            tracing::error!(%proxy, "the proxy is gone, and its legs with it");
            self.presence.forget(Role::Proxy, &proxy);
            self.each(|| Input::ProxyGone { proxy: proxy.clone() });
        }
        for media in self.presence.missed(Role::Media, self.media_grace(), now) {
            tracing::error!(%media, "the media agent is gone, and its streams with it");
            self.presence.forget(Role::Media, &media);
            self.each(|| Input::MediaGone { media: media.clone() });
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_AGAIN;
            self.work.push(self.find_orphans());
        }
        if !self.draining {
            self.succeed(now);
        }
    }

    /// Takes over what switchboards that are gone have kept; and, when that was nothing for a while, what rows tell of.
    fn succeed(&mut self, now: Instant) {
        let grace = Duration::from_secs(self.options.switchboard_grace_s.into());
        let long_gone = self.presence.missed(Role::Switchboard, grace, now);
        for dead in self.presence.missed(Role::Switchboard, Duration::ZERO, now) {
            if dead == self.instance || !self.succession.insert(dead.clone()) {
                continue;
            }
            let work = if long_gone.contains(&dead) { self.find_left(dead) } else { self.take_over(dead) };
            self.work.push(work);
        }
    }

    fn take_over(&self, dead: InstanceId) -> Work {
        let snapshots = self.snapshots.clone();
        Box::pin(async move {
            let result = snapshots.take_over(&dead).await;
            super::Done::Resume(Done::TookOver { dead, result })
        })
    }

    fn took_over(&mut self, dead: InstanceId, result: Result<Option<Kept>, KeepError>) {
        self.succession.remove(&dead);
        match result {
            Ok(Some(kept)) => {
                let ids = kept.iter().filter_map(|(name, _)| Some(name.strip_prefix(PREFIX)?.to_owned())).collect();
                self.work.push(self.hand_over(ids));
                match self.take_up(kept) {
                    Ok(calls) => tracing::warn!(%dead, calls, "took over from a switchboard that is gone"),
                    Err(error) => tracing::error!(%dead, %error, "calls cannot be taken over"),
                }
                // What left nothing but a row is closed now: all else is here.
                self.succession.insert(dead.clone());
                self.work.push(self.find_left(dead));
            }
            // It lives, it kept nothing, or somebody was first; asked again until its time is up.
            Ok(None) => {}
            Err(error) => tracing::warn!(%dead, %error, "a switchboard that is gone cannot be taken over yet"),
        }
    }

    /// The rows say whose the calls are, for the time when their heir dies.
    fn hand_over(&self, ids: Vec<String>) -> Work {
        let (store, own) = (self.store.clone(), self.instance.clone());
        Box::pin(async move {
            loop {
                match calls::hand_over(&store, ids.clone(), own.as_str()).await {
                    Ok(_) | Err(nebula_store::Error::Closed) => return super::Done::Noted,
                    Err(error) => {
                        tracing::warn!(%error, "the rows of calls that were taken over cannot be written yet")
                    }
                }
                sleep(READ_PAUSE).await;
            }
        })
    }

    /// Which calls have no end in the store: at the start, and now and then.
    pub(super) fn find_orphans(&self) -> Work {
        let store = self.store.clone();
        Box::pin(async move {
            loop {
                match calls::orphans(&store, &[]).await {
                    Ok(rows) => return super::Done::Resume(Done::Orphans(rows)),
                    Err(nebula_store::Error::Closed) => return super::Done::Noted,
                    Err(error) => tracing::warn!(%error, "calls without an end cannot be read yet"),
                }
                sleep(READ_PAUSE).await;
            }
        })
    }

    /// Our predecessor's are closed at once, unless they are here. Their other owners are watched from now on.
    fn orphans(&mut self, rows: Vec<CallRow>) {
        for row in &rows {
            if row.switchboard != self.instance.as_str() {
                self.presence.note(Role::Switchboard, &InstanceId(row.switchboard.clone()));
            }
        }
        let own = rows.into_iter().filter(|row| row.switchboard == self.instance.as_str()).collect();
        self.close_left(own);
    }

    fn find_left(&self, dead: InstanceId) -> Work {
        let store = self.store.clone();
        Box::pin(async move {
            let rows = match calls::orphans(&store, &[]).await {
                Ok(rows) => rows.into_iter().filter(|row| row.switchboard == dead.as_str()).collect(),
                Err(error) => {
                    tracing::error!(%dead, %error, "its calls cannot be read; they wait for the next start");
                    Vec::new()
                }
            };
            super::Done::Resume(Done::Left { dead, rows })
        })
    }

    /// Closes calls of which there is nothing but the row.
    fn close_left(&mut self, mut rows: Vec<CallRow>) {
        rows.retain(|row| !self.by_id.contains_key(&CallId(row.id.clone())));
        if rows.is_empty() {
            return;
        }
        let (bus, store, timeout) = (self.bus.clone(), self.store.clone(), self.rpc_timeout());
        let owner = crash::Owner { switchboard: self.instance.clone(), fence: self.fence.get() };
        let counters = (self.metrics.crashed.clone(), self.metrics.record_retries.clone());
        self.work.push(Box::pin(async move {
            crash::close_all(bus, store, owner, rows, timeout, counters).await;
            super::Done::Noted
        }));
    }

    /// Another process of our name runs, or another switchboard took over: nothing here is ours any more.
    pub(super) fn end_fenced(&mut self) {
        tracing::error!(instance = %self.instance, calls = self.calls.len(), "fenced: another process owns these calls now");
        self.metrics.disowned.increment(self.calls.len() as u64);
        self.calls.clear();
        self.tell_gone();
    }
}
