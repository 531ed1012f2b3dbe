//! A leg in a snapshot: what it needs to go on in another process on the same port.
//!
//! Written when something changed that a restart must know (at once), or should (within a second); a call costs some ten
//! of them, of 1 to 4 KB. Messages and transactions are those of the SIP crate, timers are kept as time left.

use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_bus::contract::ChannelId;
use nebula_bus::snapshots::{self, Moment, Unreadable};
use nebula_sip::dialog::{Dialog, Forks};
use nebula_sip::message::ByteStr;
use nebula_sip::snapshot::{Resume, SnapshotError, wire};
use nebula_sip::transaction::{SavedTransaction, TransactionId};
use nebula_sip::{Flow, Protocol, Request, Response};
use serde::{Deserialize, Serialize};

use super::core::{Core, Owner};
use super::leg::{Kept, Leg, Open, Side, Uac};
use super::legs::LegKey;
use super::outbox::{self, Outbox};
use crate::channel::{self, Channel, Sent};

/// The kind of a leg's snapshot.
const KIND: &str = "leg";
/// What is written, and what is read.
const VERSION: u32 = 1;
/// Their keys begin so.
pub const KEY_PREFIX: &str = "leg/";

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLeg {
    at: Moment,
    id: ChannelId,
    channel: channel::Saved,
    local_tag: String,
    sip_call_id: ByteStr,
    flow: Flow,
    side: SavedSide,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<(SavedTransaction, Request)>,
    /// The 2xx that waits for our ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    success: Option<Response>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ack: Option<SavedAck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_se_s: Option<u32>,
    outbox: outbox::Saved,
    fence: u64,
    /// Our 2xx to an INVITE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<(SavedTransaction, Response, u32)>,
    /// Our requests that are under way, or whose answer may come again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sent: Vec<(Sent, SavedTransaction)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedAck {
    cseq: u32,
    #[serde(with = "wire")]
    bytes: Bytes,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedSide {
    Uas(Box<Dialog>),
    Uac { forks: Option<Box<Forks>>, fork: Option<ByteStr>, dialog: Option<Box<Dialog>> },
}

/// The key of a leg's snapshot.
pub fn key(id: &ChannelId) -> String {
    format!("{KEY_PREFIX}{id}")
}

/// Reads a snapshot.
pub fn decode(bytes: &[u8]) -> Result<SavedLeg, Unreadable> {
    snapshots::decode(KIND, &[VERSION], bytes)
}

/// Takes up what can be taken up without an edge, whatever the bytes say.
pub fn fuzz(bytes: &[u8]) {
    let Ok(saved) = decode(bytes) else { return };
    let now = Instant::now();
    let resume = Resume { now, elapsed: saved.at.elapsed().unwrap_or(Duration::ZERO) };
    let mut layer = nebula_sip::transaction::Layer::new(nebula_sip::transaction::Options::default(), [0; 16]);
    let server = saved.open.into_iter().map(|(transaction, _)| transaction);
    for transaction in server.chain(saved.sent.into_iter().map(|(_, transaction)| transaction)) {
        let _ = layer.resume(transaction, &resume);
        while layer.poll_output().is_some() {}
    }
    if let Ok(mut channel) = Channel::resume(saved.id.clone(), saved.channel, channel::Timing::default(), &resume) {
        let mut acts = Vec::new();
        for _ in 0..64 {
            let Some(at) = channel.deadline() else { break };
            channel.wake(at.max(now), &mut acts);
        }
    }
    let _ = Outbox::restored(saved.id, saved.outbox, &resume);
}

impl Leg {
    /// As it is now. `None` only for what JSON cannot hold, which a leg is not.
    pub fn encode(&mut self, core: &Core, now: Instant) -> Option<Vec<u8>> {
        let saved = |id: TransactionId| core.layer.save(id, now);
        let sent: Vec<_> = self.sent.iter().filter_map(|(what, id)| Some((*id, *what, saved(*id)?))).collect();
        self.sent = sent.iter().map(|(id, what, _)| (*what, *id)).collect();
        let invites = sent.iter().any(|(_, what, _)| *what == Sent::Invite);
        let side = match &self.side {
            Side::Uas(dialog) => SavedSide::Uas(dialog.clone()),
            Side::Uac(uac) => SavedSide::Uac {
                // Without the INVITE's transaction no response to it will come.
                forks: uac.forks.clone().filter(|_| invites).map(Box::new),
                fork: uac.fork.clone(),
                dialog: uac.dialog.clone().map(Box::new),
            },
        };
        let kept = self.kept.as_ref().filter(|kept| kept.response.status.is_success());
        let saved = SavedLeg {
            at: Moment::now(),
            id: self.channel.id.clone(),
            channel: self.channel.save(now),
            local_tag: self.local_tag.clone(),
            sip_call_id: self.sip_call_id.clone(),
            flow: self.flow,
            side,
            open: self.open.as_ref().and_then(|open| Some((saved(open.id)?, (*open.request).clone()))),
            success: self.success.as_deref().cloned(),
            ack: self.ack.clone().map(|(cseq, bytes)| SavedAck { cseq, bytes }),
            min_se_s: self.min_se_s,
            outbox: self.outbox.save(now),
            fence: self.fence,
            kept: kept.and_then(|kept| Some((saved(kept.id)?, kept.response.clone(), kept.cseq))),
            sent: sent.into_iter().map(|(_, what, saved)| (what, saved)).collect(),
        };
        snapshots::encode(KIND, VERSION, &saved)
    }
}

impl SavedLeg {
    /// Which leg it is.
    pub fn id(&self) -> &ChannelId {
        &self.id
    }

    /// The leg with its transactions, which are in the layer afterwards. One that cannot be taken up (of other timers than
    /// are configured now, say) is left out: the leg does without it.
    pub fn resume(self, key: LegKey, core: &mut Core, now: Instant) -> Result<Leg, SnapshotError> {
        // On another host nobody knows how long it was: timers then run long rather than short.
        let resume = Resume { now, elapsed: self.at.elapsed().unwrap_or(Duration::ZERO) };
        let channel = Channel::resume(self.id.clone(), self.channel, core.options.timing(), &resume)?;
        let outbox = Outbox::restored(self.id, self.outbox, &resume);
        let side = match self.side {
            SavedSide::Uas(dialog) => Side::Uas(dialog),
            SavedSide::Uac { forks, fork, dialog } => Side::Uac(Box::new(Uac {
                invite: None,
                request: None,
                forks: forks.map(|forks| *forks),
                fork,
                dialog: dialog.map(|dialog| *dialog),
                raised: true,
            })),
        };
        let mut leg = Leg::new(key, channel, self.local_tag, self.sip_call_id, self.flow, side, outbox);
        leg.flow = way_to_peer(self.flow, leg.dialog().map(|dialog| &*dialog));
        (leg.fence, leg.min_se_s) = (self.fence, self.min_se_s);
        leg.success = self.success.map(Box::new);
        leg.ack = self.ack.map(|ack| (ack.cseq, ack.bytes));
        let id = leg.channel.id.clone();
        let take_up = |core: &mut Core, transaction| match core.layer.resume(transaction, &resume) {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::warn!(channel_id = %id, %error, "a transaction is lost");
                None
            }
        };
        if let Some((transaction, request)) = self.open
            && let Some(id) = take_up(core, transaction)
        {
            core.owners.insert(id, Owner::Server(key));
            leg.open = Some(Open { id, request: Box::new(request) });
        }
        if let Some((transaction, response, cseq)) = self.kept
            && let Some(id) = take_up(core, transaction)
        {
            leg.kept = Some(Kept { id, response, cseq });
        }
        for (what, transaction) in self.sent {
            let Some(id) = take_up(core, transaction) else { continue };
            core.owners.insert(id, Owner::Client(key, what));
            leg.sent.push((what, id));
            if let (Sent::Invite, Side::Uac(uac)) = (what, &mut leg.side) {
                uac.invite = Some(id);
            }
        }
        Ok(leg)
    }
}

/// Connections are gone: a peer that had one is called where its Contact, or the nearest proxy, says that it listens.
fn way_to_peer(flow: Flow, dialog: Option<&Dialog>) -> Flow {
    let flow = Flow { connection: 0, ..flow };
    if flow.protocol != Protocol::Tcp {
        return flow;
    }
    let hop = dialog.map(Dialog::next_hop);
    let ip = hop.and_then(|hop| hop.host()?.ip());
    match (ip, hop) {
        (Some(ip), Some(hop)) => Flow { remote: (ip, hop.port().unwrap_or(5060)).into(), ..flow },
        _ => flow,
    }
}
