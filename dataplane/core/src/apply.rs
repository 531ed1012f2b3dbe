//! Commands: each is checked whole, then carried out, or refused with nothing changed. Called by `Engine::apply`, at
//! most 64 a turn.

use crate::driver::{Component, Driver, OpenError, Socket, StreamIndex, bindable};
use crate::egress::echo::Echo;
use crate::egress::protect;
use crate::egress::report::Reporter;
use crate::engine::EventSink;
use crate::limits::RTCP_BYTES_MAX;
use crate::outlet::Outlet;
use crate::record;
use crate::srtp::Keys;
use crate::stream::{Stream, expectation};
use crate::table::Table;
use crate::time::Nanos;
use nebula_ring::command::{Command, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::Reason;
use nebula_ring::table::StreamRecord;
use std::net::SocketAddr;

/// Carries out one command.
pub(crate) fn apply(
    table: &mut Table,
    now: Nanos,
    command: &Command,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    match command {
        Command::CreateStream { id, config } => create_stream(table, now, *id, config, None, out),
        Command::ResumeStream { id, config, record } => create_stream(table, now, *id, config, Some(record), out),
        Command::UpdateStream { id, config } => update_stream(table, now, *id, config, out),
        Command::DestroyStream { id } => destroy_stream(table, now, *id, out),
        Command::CreateBridge { a, b } => create_bridge(table, now, *a, *b, out),
        Command::DestroyBridge { a, b } => destroy_bridge(table, now, *a, *b, out),
        // Between engines: their workers' affair.
        Command::MigrateStream { .. } => Err(Reason::Invalid),
    }
}

fn create_stream(
    table: &mut Table,
    now: Nanos,
    id: StreamId,
    config: &StreamConfig,
    record: Option<&StreamRecord>,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    check(id, config)?;
    if record.is_some_and(|record| !fits(record, id, config)) {
        return Err(Reason::Invalid);
    }
    if table.find(id).is_some() {
        return Err(Reason::StreamExists);
    }
    let index = table.vacant().ok_or(Reason::TableFull)?;
    let mut stream = Stream::new(now, table.next_generation(), id, config);
    if let Some(record) = record {
        record::resume(&mut stream, now, record);
    }
    let rtp = stream.socket(index, Component::Rtp);
    out.driver.open(rtp, SocketAddr::new(config.local_ip, config.rtp_port)).map_err(refused)?;
    if !stream.muxed() {
        let rtcp = stream.socket(index, Component::Rtcp);
        if let Err(error) = out.driver.open(rtcp, SocketAddr::new(config.local_ip, config.rtcp_port)) {
            out.driver.close(rtp);
            return Err(refused(error));
        }
    }
    for (socket, peer) in record::known_peers(&stream, index).into_iter().flatten() {
        out.driver.connect(socket, peer);
    }
    table.occupy(index, stream);
    secure(table, now, index, config);
    if let (Some(safe), Some(record)) = (table[index].safe, record) {
        table.vault.keys_mut(safe).resume(record);
    }
    show_keys(table, index, out);
    settle(table, now, index, out);
    Ok(())
}

fn update_stream(
    table: &mut Table,
    now: Nanos,
    id: StreamId,
    config: &StreamConfig,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    check(id, config)?;
    let index = table.find(id).ok_or(Reason::UnknownStream)?;
    let stream = &mut table[index];
    let before = &stream.config;
    let (was_muxed, muxed) = (stream.muxed(), config.rtcp_port == config.rtp_port);
    let rtcp_port_moved = !was_muxed && !muxed && config.rtcp_port != before.rtcp_port;
    if (config.local_ip, config.rtp_port) != (before.local_ip, before.rtp_port) || rtcp_port_moved {
        return Err(Reason::Invalid);
    }
    if !keys_follow(before, config) {
        return Err(Reason::Invalid);
    }
    let (rtp, rtcp) = (stream.socket(index, Component::Rtp), stream.socket(index, Component::Rtcp));
    if was_muxed && !muxed {
        out.driver.open(rtcp, SocketAddr::new(config.local_ip, config.rtcp_port)).map_err(refused)?;
    }
    // Nothing fails from here on.
    if config.ssrc != before.ssrc {
        leave(table, now, index, out);
        table[index].echo = Echo::new(config.ssrc);
    }
    secure(table, now, index, config);
    let stream = &mut table[index];
    let expected_anew =
        (config.receive, config.rtp_timeout_ms) != (stream.config.receive, stream.config.rtp_timeout_ms);
    let reopened = stream.latch.expect(expectation(now, config));
    stream.config = config.clone();
    stream.aim();
    if reopened.rtp {
        out.driver.disconnect(rtp);
    }
    if !was_muxed && muxed {
        out.driver.close(rtcp);
    } else if reopened.rtcp {
        out.driver.disconnect(rtcp);
    }
    if reopened.known || expected_anew {
        stream.silent_since = now;
        stream.timed_out = false;
    }
    show_keys(table, index, out);
    settle(table, now, index, out);
    Ok(())
}

fn destroy_stream(
    table: &mut Table,
    now: Nanos,
    id: StreamId,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    let index = table.find(id).ok_or(Reason::UnknownStream)?;
    let peer = part(table, index);
    leave(table, now, index, out);
    let stream = &mut table[index];
    let sockets: [Option<Socket>; 2] =
        [Some(stream.socket(index, Component::Rtp)), (!stream.muxed()).then(|| stream.socket(index, Component::Rtcp))];
    sockets.into_iter().flatten().for_each(|socket| out.driver.close(socket));
    let safe = stream.safe.take();
    table.vault.empty(safe);
    table.release(index);
    if let Some(peer) = peer {
        settle(table, now, peer, out);
    }
    Ok(())
}

/// Ends a stream here that goes on elsewhere: without a BYE. Returns its keys.
pub(crate) fn hand_over(
    table: &mut Table,
    now: Nanos,
    id: StreamId,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<Option<Keys>, Reason> {
    let index = table.find(id).ok_or(Reason::UnknownStream)?;
    table[index].reporter = None;
    let keys = table[index].safe.take().map(|safe| table.vault.take(safe));
    destroy_stream(table, now, id, out)?;
    Ok(keys)
}

/// A stream that came from elsewhere goes on with its keys as they stood there.
pub(crate) fn entrust(
    table: &mut Table,
    id: StreamId,
    keys: Keys,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    let index = table.find(id).ok_or(Reason::UnknownStream)?;
    let safe = table[index].safe.ok_or(Reason::Invalid)?;
    *table.vault.keys_mut(safe) = keys;
    table.touch(index);
    show_keys(table, index, out);
    Ok(())
}

fn create_bridge(
    table: &mut Table,
    now: Nanos,
    a: StreamId,
    b: StreamId,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    if a == b {
        return Err(Reason::Invalid);
    }
    let a_index = table.find(a).ok_or(Reason::UnknownStream)?;
    let b_index = table.find(b).ok_or(Reason::UnknownStream)?;
    let former = match table[a_index].peer == Some(b_index) {
        true => [None; 2],
        false => [part(table, a_index), part(table, b_index)],
    };
    for (one, other, id) in [(a_index, b_index, b), (b_index, a_index, a)] {
        (table[one].peer, table[one].peer_id) = (Some(other), Some(id));
        table[one].expect_anew(now);
    }
    for index in [Some(a_index), Some(b_index), former[0], former[1]].into_iter().flatten() {
        settle(table, now, index, out);
    }
    Ok(())
}

fn destroy_bridge(
    table: &mut Table,
    now: Nanos,
    a: StreamId,
    b: StreamId,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), Reason> {
    let a_index = table.find(a).ok_or(Reason::UnknownStream)?;
    let b_index = table.find(b).ok_or(Reason::UnknownStream)?;
    if table[a_index].peer == Some(b_index) {
        part(table, a_index);
        settle(table, now, a_index, out);
        settle(table, now, b_index, out);
    }
    Ok(())
}

/// Takes a stream's bridge apart and names the one that is left.
fn part(table: &mut Table, index: StreamIndex) -> Option<StreamIndex> {
    let peer = table[index].peer?;
    for leg in [index, peer] {
        (table[leg].peer, table[leg].peer_id) = (None, None);
    }
    Some(peer)
}

/// After any change: starts or ends our own reports, sets the timer, shows the stream anew.
fn settle(table: &mut Table, now: Nanos, index: StreamIndex, out: &mut Outlet<'_, impl Driver, impl EventSink>) {
    let stream = &mut table[index];
    if !stream.terminates() {
        leave(table, now, index, out);
    } else if stream.reporter.is_none() {
        stream.reporter = Some(Reporter::new(now, stream.config.ssrc));
    }
    table.rearm(now, index);
    table.touch(index);
}

/// Ends our own source with a BYE, if it was heard of.
fn leave(table: &mut Table, now: Nanos, index: StreamIndex, out: &mut Outlet<'_, impl Driver, impl EventSink>) {
    let stream = &mut table[index];
    let Some(mut reporter) = stream.reporter.take() else { return };
    if let Some(to) = stream.rtcp_to
        && reporter.owes_bye(&stream.echo)
    {
        let mut buffer = [0; RTCP_BYTES_MAX];
        let packet = reporter.write(now, stream.id, &stream.echo, stream.source.as_mut(), true, &mut buffer);
        protect::send_report(table, index, to, packet, out);
    }
}

/// The peer speaks under our own SSRC: ours ends with a BYE and another begins (RFC 3550 section 8.2).
pub(crate) fn collide(
    table: &mut Table,
    now: Nanos,
    index: StreamIndex,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), DropReason> {
    let echo = table[index].echo.after_collision().ok_or(DropReason::Loop)?;
    leave(table, now, index, out);
    table[index].echo = echo;
    settle(table, now, index, out);
    Ok(())
}

/// Brings a stream's keys in line with a configuration.
fn secure(table: &mut Table, now: Nanos, index: StreamIndex, config: &StreamConfig) {
    let safe = table[index].safe;
    table[index].safe = table.vault.keep(now, safe, config.srtp.as_ref());
}

/// From now on a successor knows which keys it goes on with.
fn show_keys(table: &Table, index: StreamIndex, out: &mut Outlet<'_, impl Driver, impl EventSink>) {
    if table[index].safe.is_some() {
        table.show(index, out.events);
    }
}

/// Whether no key comes back that was replaced, and none changes under its serial: it would protect with the same indices
/// again.
fn keys_follow(before: &StreamConfig, after: &StreamConfig) -> bool {
    let keys = |config: &StreamConfig| config.srtp.as_ref().and_then(|srtp| srtp.send.clone());
    match (keys(before), keys(after)) {
        (Some(before), Some(after)) => after.serial > before.serial || after == before,
        _ => true,
    }
}

/// Whether a configuration makes sense at all.
fn check(id: StreamId, config: &StreamConfig) -> Result<(), Reason> {
    let sound = id.0 != 0
        && config.ssrc != 0
        && config.rtp_port != 0
        && config.rtcp_port != 0
        && bindable(config.local_ip)
        && [config.remote_rtp, config.remote_rtcp].iter().flatten().all(|remote| is_peer(remote, config))
        && config.payload_types.as_slice().iter().all(|p| p.number < 128 && p.forward_as < 128 && p.clock_rate_hz > 0);
    sound.then_some(()).ok_or(Reason::Invalid)
}

/// Whether a record can be of that stream: it is of that name, and the peer that it was latched to can be sent to.
fn fits(record: &StreamRecord, id: StreamId, config: &StreamConfig) -> bool {
    let peers = [record.remote_rtp(), record.remote_rtcp()];
    record.id == id.0 && peers.iter().flatten().all(|peer| is_peer(peer, config))
}

fn is_peer(address: &SocketAddr, config: &StreamConfig) -> bool {
    !address.ip().is_multicast() && address.is_ipv4() == config.local_ip.is_ipv4()
}

fn refused(error: OpenError) -> Reason {
    match error {
        OpenError::PortInUse => Reason::PortInUse,
        OpenError::AddressNotAvailable => Reason::AddressNotAvailable,
        OpenError::NoFileDescriptor => Reason::NoFileDescriptor,
        OpenError::System { errno } => Reason::System { errno },
    }
}
