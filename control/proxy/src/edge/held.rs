//! What binds us beyond its transaction leaves once its leg is kept.
//!
//! With our 2xx to an INVITE, or our ACK to one, the phone believes that it is in a call; with our INVITE it rings. So these wait
//! until the snapshots of that moment are written: whoever dies afterwards, the next process knows the call, too. Whatever else
//! goes to the same address meanwhile waits behind them, in its order. The wait is a few milliseconds, and bounded: with the keep
//! away they leave all the same.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use nebula_sip::Flow;
use nebula_sip::transaction::TransactionId;

/// The longest wait for the keep: a fifth of T1, so that nobody repeats a request for it.
pub const HOLD_MAX: Duration = Duration::from_millis(100);
/// Messages that may wait; one more leaves at once.
const HELD_MAX: usize = 16_384;

/// A message that waits.
#[derive(Debug)]
pub struct Message {
    pub flow: Flow,
    pub bytes: Bytes,
    pub id: Option<TransactionId>,
}

/// The messages that wait, in their order.
#[derive(Debug, Default)]
pub struct Held {
    queue: VecDeque<Message>,
    by_peer: HashMap<SocketAddr, usize>,
    /// How many have left so far: the number of the first in the queue.
    left: u64,
    /// Those before this one have a writing of the snapshots to wait for.
    covered: u64,
}

impl Held {
    /// Takes a message that has to wait, or gives it back.
    pub fn hold(&mut self, message: Message) -> Option<Message> {
        let peer = message.flow.remote;
        if self.queue.len() >= HELD_MAX || !(binds(&message.bytes) || self.by_peer.contains_key(&peer)) {
            return Some(message);
        }
        *self.by_peer.entry(peer).or_default() += 1;
        self.queue.push_back(message);
        None
    }

    /// Up to which one the snapshots written next are waited for, if any wait for none yet.
    pub fn uncovered(&mut self) -> Option<u64> {
        let end = self.left + self.queue.len() as u64;
        (self.covered < end).then(|| {
            self.covered = end;
            end
        })
    }

    /// The next message before this one.
    pub fn release(&mut self, end: u64) -> Option<Message> {
        if self.left >= end {
            return None;
        }
        let message = self.queue.pop_front()?;
        self.left += 1;
        let peer = message.flow.remote;
        if let Some(count) = self.by_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&peer);
            }
        }
        Some(message)
    }
}

/// Whether this message, which we wrote, makes or confirms a dialog: an INVITE, an ACK, or a 2xx to an INVITE.
fn binds(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"ACK ") || bytes.starts_with(b"INVITE ") {
        return true;
    }
    let cseq = || {
        let head = bytes.split(|byte| *byte == b'\n').take_while(|line| !line.trim_ascii().is_empty());
        head.filter_map(|line| line.strip_prefix(b"CSeq:")).any(|value| value.trim_ascii().ends_with(b" INVITE"))
    };
    bytes.starts_with(b"SIP/2.0 2") && cseq()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_sip::Protocol;

    fn message(port: u16, text: &'static str) -> Message {
        let flow = Flow {
            protocol: Protocol::Udp,
            local: ([127, 0, 0, 1], 5060).into(),
            remote: ([127, 0, 0, 1], port).into(),
            connection: 0,
        };
        Message { flow, bytes: Bytes::from_static(text.as_bytes()), id: None }
    }

    const SUCCESS: &str = "SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\n";
    const RINGING: &str = "SIP/2.0 180 Ringing\r\nCSeq: 1 INVITE\r\n\r\n";
    const BYE_OK: &str = "SIP/2.0 200 OK\r\nCSeq: 2 BYE\r\n\r\nCSeq: 1 INVITE";

    #[test]
    fn what_makes_a_phone_ring_waits() {
        let mut held = Held::default();
        assert!(held.hold(message(1, "INVITE sip:a SIP/2.0\r\n\r\n")).is_none());
        assert!(held.hold(message(2, "CANCEL sip:a SIP/2.0\r\n\r\n")).is_some());
    }

    #[test]
    fn a_success_waits_and_what_follows_it_stays_behind_it() {
        let mut held = Held::default();
        assert!(held.hold(message(1, RINGING)).is_some());
        assert!(held.hold(message(1, BYE_OK)).is_some());
        assert_eq!(held.uncovered(), None);
        assert!(held.hold(message(1, SUCCESS)).is_none());
        assert!(held.hold(message(1, BYE_OK)).is_none(), "it would overtake");
        assert!(held.hold(message(2, BYE_OK)).is_some(), "another phone");
        let end = held.uncovered().expect("two wait");
        assert_eq!(held.uncovered(), None);
        assert!(held.hold(message(3, "ACK sip:a SIP/2.0\r\n\r\n")).is_none());
        assert_eq!(held.release(end).map(|m| m.bytes), Some(SUCCESS.into()));
        assert_eq!(held.release(end).map(|m| m.bytes), Some(BYE_OK.into()));
        assert!(held.release(end).is_none(), "the ACK waits for another writing");
        assert!(held.hold(message(1, BYE_OK)).is_some(), "nothing is before it any more");
        let end = held.uncovered().expect("one waits");
        assert!(held.release(end).is_some());
        assert!(held.release(u64::MAX).is_none());
    }
}
