//! A worker's engine: one call per input, each fully handled before the next.

use crate::apply::{apply, collide, entrust, hand_over};
use crate::batch::{self, BATCH_MAX};
use crate::driver::{Component, Datagram, Driver, Forward, Incoming, Socket, StreamIndex};
use crate::egress::protect;
use crate::egress::relay::{self, Fate};
use crate::ingress::classify::{Kind, classify};
use crate::ingress::latch::Verdict;
use crate::ingress::unprotect;
use crate::limits::{Limits, PACKET_BYTES_MAX, RTCP_BYTES_MAX, TIMERS_PER_TICK_MAX};
use crate::outlet::Outlet;
use crate::srtp::{Foreseen, Keys};
use crate::table::Table;
use crate::time::Nanos;
use crate::view::StreamView;
use crate::wire::{rtcp, rtp};
use nebula_ring::command::{Command, StreamId};
use nebula_ring::drops::{DropCounters, DropReason};
use nebula_ring::event::{Event, Reason};
use std::net::SocketAddr;

/// Where the engine's events go.
pub trait EventSink {
    /// Takes one event. `apply` makes exactly one `Done` or `Failed`, and any call may make `StreamUp` or `RtpTimeout`;
    /// a worker whose event ring is full holds back commands, and may drop the other two: both can be read from the
    /// stream table.
    fn push(&mut self, event: Event);

    /// Writes a stream's record into the table at once: the packet that the driver is handed next takes an SRTP index that a
    /// successor must not use again. Seldom: when a source begins, and once in `RTP_AHEAD` packets at the most.
    fn show(&mut self, index: StreamIndex, view: &StreamView<'_>);
}

/// For who keeps no table: nothing goes on after such an engine.
impl EventSink for Vec<Event> {
    fn push(&mut self, event: Event) {
        Vec::push(self, event);
    }

    fn show(&mut self, _: StreamIndex, _: &StreamView<'_>) {}
}

/// What became of all packets, over all streams that ever were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Handed to `receive`. Always `forwarded + consumed + drops.total()`.
    pub received: u64,
    /// Passed on: to the other leg or back as echo.
    pub forwarded: u64,
    /// Read by the engine itself: RTCP where we terminate.
    pub consumed: u64,
    /// Refused, by reason.
    pub drops: DropCounters,
    /// Ticks that left timers for the next one.
    pub ticks_cut_short: u64,
}

/// The media engine of one worker.
#[derive(Debug)]
pub struct Engine {
    table: Table,
    totals: Totals,
    /// The latest time handed in: earlier ones are taken for it.
    now: Nanos,
}

impl Engine {
    /// Takes all memory it will ever need. Panics if the limits are out of range: they are the operator's, checked
    /// before.
    pub fn new(limits: Limits) -> Self {
        Self { table: Table::new(limits), totals: Totals::default(), now: Nanos(0) }
    }

    /// Handles packets that came in together, one after the other, and says of each where it is to be sent; it may be rewritten
    /// in place. The same as to hand each to `receive`, but that SRTP's tags are computed for several at once.
    pub fn receive_many(
        &mut self,
        now: Nanos,
        packets: &mut [Incoming<'_>],
        driver: &mut impl Driver,
        events: &mut impl EventSink,
    ) {
        let now = self.advance(now);
        for packets in packets.chunks_mut(BATCH_MAX) {
            if packets.len() == 1 || self.table.vault.is_empty() {
                for Incoming { socket, source, packet, forward } in packets {
                    *forward = self.receive(now, *socket, *source, packet, driver, events);
                }
                continue;
            }
            let foreseen = batch::foresee(&self.table, packets);
            let mut debts = [None; BATCH_MAX];
            for ((incoming, foreseen), debt) in packets.iter_mut().zip(&foreseen).zip(&mut debts) {
                let mut out = Outlet::new(driver, events);
                let Incoming { socket, source, packet, forward } = incoming;
                self.take(now, *socket, *source, packet, foreseen.as_ref(), &mut out);
                (*forward, *debt) = (out.forward, out.owed);
            }
            if debts.iter().any(Option::is_some) {
                batch::pay(&self.table.vault, packets, &debts);
            }
        }
    }

    /// Handles one packet that came in on `socket`; `source` is none when the driver has connected it. May rewrite it in
    /// place, and says where it is to be sent.
    #[inline]
    pub fn receive(
        &mut self,
        now: Nanos,
        socket: Socket,
        source: Option<SocketAddr>,
        packet: &mut Datagram<'_>,
        driver: &mut impl Driver,
        events: &mut impl EventSink,
    ) -> Option<Forward> {
        let now = self.advance(now);
        let mut out = Outlet::new(driver, events);
        self.take(now, socket, source, packet, None, &mut out);
        if let Some(debt) = out.owed {
            batch::pay_one(&self.table.vault, packet, debt);
        }
        out.forward
    }

    /// Notes that the network called a stream's peer unreachable. Nothing follows from it but what operators are shown: an
    /// ICMP message proves nothing, and phones come back.
    pub fn unreachable(&mut self, now: Nanos, socket: Socket) {
        let now = self.advance(now);
        if self.table.owner(socket).is_some() {
            let stream = &mut self.table[socket.stream];
            stream.hints.unreachable += 1;
            stream.hints.unreachable_at = Some(now);
            self.table.touch(socket.stream);
        }
    }

    /// Carries out one command and answers it with exactly one `Done` or `Failed`.
    pub fn apply(
        &mut self,
        now: Nanos,
        correlation: u64,
        command: &Command,
        driver: &mut impl Driver,
        events: &mut impl EventSink,
    ) {
        let now = self.advance(now);
        let answer = match apply(&mut self.table, now, command, &mut Outlet::new(driver, events)) {
            Ok(()) => Event::Done { correlation },
            Err(reason) => Event::Failed { correlation, reason },
        };
        events.push(answer);
    }

    /// Serves the timers that are due, at most `TIMERS_PER_TICK_MAX`.
    pub fn tick(&mut self, now: Nanos, driver: &mut impl Driver, events: &mut impl EventSink) {
        let now = self.advance(now);
        let mut out = Outlet::new(driver, events);
        for _ in 0..TIMERS_PER_TICK_MAX {
            let Some(index) = self.table.wheel.pop(now) else { return };
            self.expire(now, index, &mut out);
        }
        self.totals.ticks_cut_short += 1;
    }

    /// When `tick` should next be called, at the latest; none while no timer runs. May be in the past.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.table.wheel.next_due()
    }

    /// Visits the streams that changed since the last visit, each once, for the table writer.
    pub fn for_each_dirty(&mut self, visit: impl FnMut(StreamIndex, &StreamView<'_>)) {
        self.table.for_each_dirty(visit);
    }

    /// An open stream by its name.
    pub fn find(&self, id: StreamId) -> Option<(StreamIndex, StreamView<'_>)> {
        self.table.find(id).map(|index| (index, self.table.view(index)))
    }

    /// Forgets a stream that another engine goes on with: its sockets are closed, nobody is told, and its place is shown once
    /// more as free. Returns the keys that it had, for `entrust`.
    pub fn hand_over(
        &mut self,
        now: Nanos,
        id: StreamId,
        driver: &mut impl Driver,
        events: &mut impl EventSink,
    ) -> Result<Option<Keys>, Reason> {
        let now = self.advance(now);
        hand_over(&mut self.table, now, id, &mut Outlet::new(driver, events))
    }

    /// A stream that was resumed here goes on with the keys that `hand_over` took from it. A record says what may have been
    /// sent and heard, the keys what was: so nothing is left out, late packets are read, and a key just changed still holds.
    pub fn entrust(
        &mut self,
        id: StreamId,
        keys: Keys,
        driver: &mut impl Driver,
        events: &mut impl EventSink,
    ) -> Result<(), Reason> {
        entrust(&mut self.table, id, keys, &mut Outlet::new(driver, events))
    }

    /// Its sockets and their addresses.
    pub fn sockets(&self, id: StreamId) -> Option<[Option<(Socket, SocketAddr)>; 2]> {
        let index = self.table.find(id)?;
        let stream = &self.table[index];
        let at = |component, port| (stream.socket(index, component), SocketAddr::new(stream.config.local_ip, port));
        let rtcp = (!stream.muxed()).then(|| at(Component::Rtcp, stream.config.rtcp_port));
        Some([Some(at(Component::Rtp, stream.config.rtp_port)), rtcp])
    }

    /// All open streams, for tests and inspection.
    pub fn streams(&self) -> impl Iterator<Item = (StreamIndex, StreamView<'_>)> {
        self.table.open()
    }

    /// What became of all packets so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    fn advance(&mut self, now: Nanos) -> Nanos {
        self.now = self.now.max(now);
        self.now
    }

    /// Has one packet handled and counts what became of it.
    #[inline]
    fn take(
        &mut self,
        now: Nanos,
        socket: Socket,
        source: Option<SocketAddr>,
        packet: &mut Datagram<'_>,
        foreseen: Option<&Foreseen>,
        out: &mut Outlet<'_, impl Driver, impl EventSink>,
    ) {
        self.totals.received += 1;
        if self.table.owner(socket).is_none() {
            self.totals.drops.count(DropReason::StaleSocket);
            return;
        }
        let fate = self.handle(now, socket, source, packet, foreseen, out);
        let stream = &mut self.table[socket.stream];
        stream.stats.handled += 1;
        match fate {
            Ok(Fate::Forwarded) => {
                stream.stats.forwarded += 1;
                self.totals.forwarded += 1;
            }
            Ok(Fate::Consumed) => {
                stream.stats.consumed += 1;
                self.totals.consumed += 1;
            }
            Err(reason) => {
                stream.refuse(reason, source, packet.as_ref());
                self.totals.drops.count(reason);
            }
        }
        self.table.touch(socket.stream);
    }

    /// A packet's path, up to where it goes.
    #[inline]
    fn handle(
        &mut self,
        now: Nanos,
        socket: Socket,
        source: Option<SocketAddr>,
        packet: &mut Datagram<'_>,
        foreseen: Option<&Foreseen>,
        out: &mut Outlet<'_, impl Driver, impl EventSink>,
    ) -> Result<Fate, DropReason> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(DropReason::TooLong);
        }
        let muxed = self.table[socket.stream].muxed();
        match classify(socket.component, muxed, packet.as_ref())? {
            Kind::Rtp => self.handle_rtp(now, socket, source, packet, foreseen, out),
            Kind::Rtcp => self.handle_rtcp(now, socket, source, packet, out),
        }
    }

    #[inline]
    fn handle_rtp(
        &mut self,
        now: Nanos,
        socket: Socket,
        source: Option<SocketAddr>,
        packet: &mut Datagram<'_>,
        foreseen: Option<&Foreseen>,
        out: &mut Outlet<'_, impl Driver, impl EventSink>,
    ) -> Result<Fate, DropReason> {
        let stream = &mut self.table[socket.stream];
        if stream.latch.is_foreign(source) {
            return Err(DropReason::ForeignSource);
        }
        unprotect::rtp(&mut self.table, now, socket.stream, packet, foreseen)?;
        let stream = &mut self.table[socket.stream];
        let packet = rtp::Packet::new_checked(packet).map_err(|error| match error {
            rtp::Error::Truncated { .. } => DropReason::Truncated,
            rtp::Error::BadVersion(_) => DropReason::BadVersion,
            rtp::Error::BadPadding { .. } => DropReason::BadPadding,
        })?;
        let payload_type = stream.payload_type(packet.payload_type()).ok_or(DropReason::UnknownPayloadType)?;
        match stream.latch.rtp(now, source, packet.ssrc(), packet.sequence())? {
            Verdict::Known => {}
            Verdict::OnTrial { passes } => {
                stream.aim();
                if !passes {
                    return Err(DropReason::Learning);
                }
            }
            Verdict::Latched(remote) => {
                stream.aim();
                if stream.latch.is_settled() {
                    out.driver.connect(socket, remote);
                }
                out.events.push(Event::StreamUp { id: stream.id, remote });
            }
            Verdict::Settled(remote) => out.driver.connect(socket, remote),
        }
        if packet.ssrc() == stream.echo.ssrc() && stream.terminates() {
            collide(&mut self.table, now, socket.stream, out)?;
        }
        let stream = &mut self.table[socket.stream];
        if !stream.config.receive {
            return Err(DropReason::Direction);
        }
        stream.hear(now, &packet, payload_type.clock_rate_hz);
        if stream.timed_out {
            stream.timed_out = false;
            self.table.rearm(now, socket.stream);
        }
        relay::rtp(&mut self.table, now, socket.stream, payload_type, packet, out)
    }

    fn handle_rtcp(
        &mut self,
        now: Nanos,
        socket: Socket,
        source: Option<SocketAddr>,
        packet: &mut Datagram<'_>,
        out: &mut Outlet<'_, impl Driver, impl EventSink>,
    ) -> Result<Fate, DropReason> {
        unprotect::rtcp(&mut self.table, now, socket.stream, packet)?;
        rtcp::Compound::new_checked(packet.as_ref()).map_err(|_| DropReason::BadRtcp)?;
        let stream = &mut self.table[socket.stream];
        match stream.latch.rtcp(source)? {
            Verdict::Known => {}
            Verdict::OnTrial { .. } => stream.aim(),
            Verdict::Latched(remote) | Verdict::Settled(remote) => {
                stream.aim();
                out.driver.connect(socket, remote);
            }
        }
        stream.stats.rtcp_received += 1;
        relay::rtcp(&mut self.table, now, socket.stream, packet, out)
    }

    /// Serves one stream's timer: silence, then our own report.
    fn expire(&mut self, now: Nanos, index: StreamIndex, out: &mut Outlet<'_, impl Driver, impl EventSink>) {
        let stream = &mut self.table[index];
        if stream.silence_due().is_some_and(|due| due <= now) {
            stream.timed_out = true;
            out.events.push(Event::RtpTimeout { id: stream.id });
            self.table.touch(index);
        }
        if self.table[index].reporter.is_some_and(|r| r.next_at() <= now) {
            report(&mut self.table, now, index, out);
            self.table.touch(index);
        }
        self.table.rearm(now, index);
    }
}

/// Sends a stream's own report, once there is something to say and somebody to say it to.
fn report(table: &mut Table, now: Nanos, index: StreamIndex, out: &mut Outlet<'_, impl Driver, impl EventSink>) {
    let stream = &mut table[index];
    let Some(reporter) = &mut stream.reporter else { return };
    let (Some(to), true) = (stream.rtcp_to, stream.source.is_some()) else { return reporter.skip(now) };
    let mut buffer = [0; RTCP_BYTES_MAX];
    let packet = reporter.write(now, stream.id, &stream.echo, stream.source.as_mut(), false, &mut buffer);
    protect::send_report(table, index, to, packet, out);
}
