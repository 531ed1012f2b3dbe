//! A stream as it is kept outside of this process, and how it comes back: what no table shows (the exchange, the owner, the
//! bridge) and, for when the dataplane dies too, the last record that was seen. What follows from these is not kept.

use super::stream::{Base, Place, Stream};
use super::{Agent, Owner, name, parse_name};
use crate::offer_answer::Exchange;
use nebula_bus::contract;
use nebula_bus::snapshots::{Moment, Unreadable, decode, encode};
use nebula_ring::ABI_VERSION;
use nebula_ring::command::{Mode, PayloadTypes, StreamConfig, StreamId};
use nebula_ring::table::{ENTRY_WORDS, StreamRecord};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The kind of these snapshots, and the front of their keys.
const KIND: &str = "stream";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    owner: Owner,
    fence: u64,
    exchange: Exchange,
    source: Option<IpAddr>,
    partner: Option<u64>,
    local_ip: IpAddr,
    rtp_port: u16,
    ssrc: u32,
    echo: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<KeptBase>,
}

/// The last record that was seen, as the words of the table, without the zeros at its end.
#[derive(Serialize, Deserialize)]
struct KeptBase {
    abi_version: u32,
    at: Moment,
    /// How old it was then.
    age_ms: u64,
    /// It is the last word of a dataplane that is dead.
    last: bool,
    words: Vec<u64>,
}

/// A change to be kept: a key, and its value unless the stream is gone.
pub type Change = (String, Option<Vec<u8>>);

impl Agent {
    /// What has changed since the last call.
    pub fn take_changes(&mut self, now_ms: u64) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (key(id), self.streams.get(&id).and_then(|it| snapshot(it, now_ms)))).collect()
    }

    /// Takes up what an agent of the same name had kept; what cannot be read is returned with its key. They wait for the
    /// dataplane.
    pub fn restore<'a>(
        &mut self,
        kept: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        now_ms: u64,
    ) -> Vec<(String, Unreadable)> {
        self.restored_at_ms = now_ms;
        let mut unreadable = Vec::new();
        for (key, bytes) in kept {
            let Some(id) = id_of(key) else { continue };
            match decode::<Kept>(KIND, &[VERSION], bytes) {
                Ok(kept) => self.take_back(id, kept, now_ms),
                Err(error) => unreadable.push((key.to_owned(), error)),
            }
        }
        // A partner that was not kept is gone.
        let known: std::collections::HashSet<StreamId> = self.streams.keys().copied().collect();
        for stream in self.streams.values_mut() {
            stream.partner = stream.partner.filter(|partner| known.contains(partner));
        }
        unreadable
    }

    fn take_back(&mut self, id: StreamId, kept: Kept, now_ms: u64) {
        let config = StreamConfig {
            local_ip: kept.local_ip,
            rtp_port: kept.rtp_port,
            rtcp_port: kept.rtp_port,
            remote_rtp: None,
            remote_rtcp: None,
            nat_expected: false,
            learning_window_ms: self.options.learning_window_ms,
            learn_from: None,
            relatch_interval_ms: self.options.relatch_interval_ms,
            receive: false,
            send: false,
            mode: if kept.echo { Mode::Echo } else { Mode::Bridge },
            rtp_timeout_ms: 0,
            ssrc: kept.ssrc,
            srtp: None,
            payload_types: PayloadTypes::default(),
        };
        let stream = Stream {
            owner: kept.owner,
            place: Place::Waiting { since_ms: now_ms },
            exchange: kept.exchange,
            source: kept.source,
            partner: kept.partner.map(StreamId),
            config,
            // The dataplane is told all again: this agent does not know what it was told last.
            in_doubt: true,
            unanswered: 0,
            fence: kept.fence,
            claimed: false,
            base: kept.base.and_then(|base| base.read(id, now_ms)).map(Box::new),
        };
        self.made_before.insert(stream.owner.channel_id.clone(), id);
        self.by_ports.insert(crate::placement::PortPair::of(kept.rtp_port), id);
        self.streams.insert(id, stream);
    }
}

fn snapshot(stream: &Stream, now_ms: u64) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        owner: &'a Owner,
        fence: u64,
        exchange: &'a Exchange,
        source: Option<IpAddr>,
        partner: Option<u64>,
        local_ip: IpAddr,
        rtp_port: u16,
        ssrc: u32,
        echo: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        base: Option<KeptBase>,
    }
    let kept = Borrowed {
        owner: &stream.owner,
        fence: stream.fence,
        exchange: &stream.exchange,
        source: stream.source,
        partner: stream.partner.map(|partner| partner.0),
        local_ip: stream.config.local_ip,
        rtp_port: stream.config.rtp_port,
        ssrc: stream.config.ssrc,
        echo: stream.config.mode == Mode::Echo,
        base: stream.base.as_ref().map(|base| KeptBase::of(base, now_ms)),
    };
    encode(KIND, VERSION, &kept)
}

impl KeptBase {
    fn of(base: &Base, now_ms: u64) -> Self {
        let words: [u64; ENTRY_WORDS - 1] = base.record.words();
        let len = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        let age_ms = base.read_at_ms.map_or(0, |read| now_ms.saturating_sub(read));
        Self {
            abi_version: ABI_VERSION,
            at: Moment::now(),
            age_ms,
            last: base.read_at_ms.is_none(),
            words: words[..len].to_vec(),
        }
    }

    /// None if it is of another layout: then the stream begins anew where it was.
    fn read(&self, id: StreamId, now_ms: u64) -> Option<Base> {
        let mut words = [0; ENTRY_WORDS - 1];
        words.get_mut(..self.words.len()).filter(|_| self.abi_version == ABI_VERSION)?.copy_from_slice(&self.words);
        let record = StreamRecord::from_words(words);
        let kept_for = self.at.elapsed().map_or(AGE_MS_UNKNOWN, |age| age.as_millis() as u64);
        let read_at_ms = (!self.last).then(|| now_ms.saturating_sub(self.age_ms.saturating_add(kept_for)));
        (record.id == id.0).then_some(Base { record, read_at_ms })
    }
}

/// How old a record of another boot is taken to be: what it may have been when it was written last.
const AGE_MS_UNKNOWN: u64 = 60_000;

fn key(id: StreamId) -> String {
    format!("{KIND}/{}", name(id))
}

fn id_of(key: &str) -> Option<StreamId> {
    let name = key.strip_prefix(KIND)?.strip_prefix('/')?;
    parse_name(&contract::StreamId(name.to_owned())).ok()
}
