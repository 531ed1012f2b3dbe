//! The way to a peer, learned from its frames, without ever asking for an address: a frame that the engine has accepted says
//! by which interface, VLAN and MAC its sender is reached. What is not known, or has gone stale, is the kernel's to send.
//!
//! A frame costs its forger nothing, so one alone moves no media: a peer that is known under one way must be heard
//! `MOVED_FRAMES` times in a row by another before that one counts.

use super::frame::Headers;
use super::header::Template;
use std::net::SocketAddr;

/// Frames in a row that a known peer must send another way: a fail-over of a router takes as long as four packets.
pub const MOVED_FRAMES: u8 = 4;
/// A way that no frame has confirmed for so long is not taken any more. Then the kernel sends, which asks who is there.
pub const STALE_MS: u64 = 5_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Route {
    known: Option<Known>,
    /// Frames in a row that came another way.
    others: u8,
}

#[derive(Debug)]
struct Known {
    interface: u8,
    headers: Template,
    confirmed_ms: u64,
}

impl Route {
    /// Notes an accepted frame.
    #[inline]
    pub fn hear(&mut self, now_ms: u64, interface: u8, frame: &[u8], headers: &Headers) {
        let Some(known) = &mut self.known else { return self.learn(now_ms, interface, frame, headers) };
        if known.interface == interface && known.headers.answers(frame, headers) {
            known.confirmed_ms = now_ms;
            self.others = 0;
            return;
        }
        self.others += 1;
        // Another peer (the latch has been opened anew) or a way that is stale has nothing to lose.
        let is_free = known.headers.peer() != headers.source || is_stale(known, now_ms);
        if is_free || self.others >= MOVED_FRAMES {
            self.learn(now_ms, interface, frame, headers);
        }
    }

    /// The way to a peer: interface and headers.
    #[inline]
    pub fn to(&self, now_ms: u64, peer: SocketAddr) -> Option<(u8, &Template)> {
        let known = self.known.as_ref()?;
        (known.headers.peer() == peer && !is_stale(known, now_ms)).then_some((known.interface, &known.headers))
    }

    #[cold]
    fn learn(&mut self, now_ms: u64, interface: u8, frame: &[u8], headers: &Headers) {
        self.others = 0;
        if let Some(headers) = Template::answering(frame, headers) {
            self.known = Some(Known { interface, headers, confirmed_ms: now_ms });
        }
    }
}

fn is_stale(known: &Known, now_ms: u64) -> bool {
    now_ms.saturating_sub(known.confirmed_ms) > STALE_MS
}
