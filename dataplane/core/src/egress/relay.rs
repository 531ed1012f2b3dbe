//! Where an accepted packet goes: the one place that decides it. Called for each packet that passed the ingress.

use crate::driver::{Component, Datagram, Driver, Forward, StreamIndex};
use crate::egress::protect;
use crate::engine::EventSink;
use crate::outlet::Outlet;
use crate::table::Table;
use crate::time::Nanos;
use crate::wire::rtcp::Compound;
use crate::wire::rtp::Packet;
use nebula_ring::command::{Mode, PayloadType};
use nebula_ring::drops::DropReason;

/// What became of a packet that was not dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The driver sends it.
    Forwarded,
    /// The engine has read it.
    Consumed,
}

/// RTP: to the other leg under that leg's payload type, all else untouched; or back from our own source.
#[inline]
pub(crate) fn rtp(
    table: &mut Table,
    now: Nanos,
    index: StreamIndex,
    payload_type: PayloadType,
    mut packet: Packet<&mut Datagram<'_>>,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<Fate, DropReason> {
    let stream = &mut table[index];
    let to = match (stream.peer, stream.config.mode) {
        (Some(peer), _) => peer,
        (None, Mode::Echo) => index,
        (None, Mode::Bridge) => return Err(DropReason::NoPeer),
    };
    let receiver = &mut table[to];
    if !receiver.config.send {
        return Err(DropReason::Direction);
    }
    let remote = receiver.rtp_to.ok_or(DropReason::NoRemote)?;
    if receiver.on_trial && !receiver.latch.spend(now) {
        return Err(DropReason::Learning);
    }
    if to == index {
        receiver.echo.rewrite(now, payload_type.clock_rate_hz, &mut packet);
    } else {
        packet.set_payload_type(payload_type.forward_as);
    }
    protect::rtp(table, to, packet.bytes_mut(), out)?;
    let receiver = &mut table[to];
    receiver.speak(&packet);
    out.forward = Some(Forward { from: receiver.socket(to, Component::Rtp), to: remote });
    if to != index {
        table.touch(to);
    }
    Ok(Fate::Forwarded)
}

/// RTCP that was checked: to the other leg untouched, whatever the directions; or into our own reports.
pub(crate) fn rtcp(
    table: &mut Table,
    now: Nanos,
    index: StreamIndex,
    packet: &mut Datagram<'_>,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<Fate, DropReason> {
    let stream = &mut table[index];
    match (stream.peer, &mut stream.reporter) {
        (Some(to), _) => {
            let remote = table[to].rtcp_to.ok_or(DropReason::NoRemote)?;
            protect::rtcp(table, to, packet, out.events)?;
            let receiver = &mut table[to];
            receiver.stats.rtcp_sent += 1;
            out.forward = Some(Forward { from: receiver.rtcp_socket(to), to: remote });
            table.touch(to);
            Ok(Fate::Forwarded)
        }
        (None, Some(reporter)) => {
            let compound = Compound::new_checked(packet.as_ref()).map_err(|_| DropReason::BadRtcp)?;
            reporter.hear(now, stream.source.as_ref(), compound);
            Ok(Fate::Consumed)
        }
        (None, None) => Err(DropReason::NoPeer),
    }
}
