//! Streams that would hear themselves: phones that signal our own ports to us. Pure; asked for each configuration.

use super::{Agent, StreamId};
use crate::nat;
use crate::placement::PortPair;
use nebula_ring::command::Mode;
use std::net::SocketAddr;

/// Times that one packet may pass through streams of this agent, as a call does that is forwarded out and comes in again;
/// more are taken for a loop.
const PASSES_MAX: usize = 16;

impl Agent {
    /// Whether what a stream sends to its peer would, over our own ports, bridges and echoes, be sent there again and again:
    /// two streams that were told each other's ports, or a longer round. A call that comes by a second time is none.
    pub(super) fn hears_itself(&self, id: StreamId) -> bool {
        let mut speakers = vec![id];
        let mut next = 0;
        while let Some(speaker) = speakers.get(next).and_then(|speaker| self.streams.get(speaker)) {
            next += 1;
            let (rtp, rtcp) = speaker.exchange.remote_addresses();
            let listeners = [rtp, rtcp].into_iter().flatten().filter_map(|to| self.stream_at(to));
            for answering in listeners.filter_map(|listener| self.answering(listener)) {
                if answering == id || speakers.len() == PASSES_MAX {
                    return true;
                }
                if !speakers.contains(&answering) {
                    speakers.push(answering);
                }
            }
        }
        false
    }

    /// Which stream sends on what another has heard: its partner, or itself when it echoes.
    fn answering(&self, listener: StreamId) -> Option<StreamId> {
        let stream = self.streams.get(&listener)?;
        stream.partner.or((stream.config.mode == Mode::Echo).then_some(listener))
    }

    /// Which of our streams receives at an address.
    fn stream_at(&self, address: SocketAddr) -> Option<StreamId> {
        let ports = PortPair::of(address.port());
        let id = *self.by_ports.get(&ports)?;
        let config = &self.streams.get(&id).filter(|stream| stream.worker().is_some())?.config;
        let ips = [config.local_ip, nat::advertised(&self.options, config.local_ip)];
        (PortPair::of(config.rtp_port) == ports && ips.contains(&address.ip())).then_some(id)
    }
}
