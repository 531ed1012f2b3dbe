//! RTP becomes SRTP, RTCP becomes SRTCP, in place, as the last thing before a packet is forwarded or handed to the driver.
//! Called for each packet to a peer that wants protection.
//!
//! Before that the stream table shows the index: whatever a driver does with a packet, and whenever it has the kernel send
//! what is queued, a successor never begins below it.

use crate::driver::{Datagram, Driver, StreamIndex};
use crate::engine::EventSink;
use crate::limits::RTCP_BYTES_MAX;
use crate::outlet::Outlet;
use crate::srtp::{Error, MustShow, SRTCP_ROOM_BYTES};
use crate::table::Table;
use nebula_ring::drops::DropReason;
use std::net::SocketAddr;

/// RTP to a stream's peer, but for a tag that is then owed. A stream without protection leaves it as it is.
#[inline]
pub(crate) fn rtp(
    table: &mut Table,
    to: StreamIndex,
    packet: &mut Datagram<'_>,
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) -> Result<(), DropReason> {
    let Some(safe) = table[to].safe else { return Ok(()) };
    let sender = table.vault.keys_mut(safe).send.as_mut().ok_or(Error::NoKey)?;
    let (MustShow(must_show), owed) = sender.protect_rtp_owing(packet)?;
    out.owed = owed.map(|owed| (safe, owed));
    if must_show {
        table.show(to, out.events);
    }
    Ok(())
}

/// RTCP to a stream's peer. A stream without protection leaves it as it is.
pub(crate) fn rtcp(
    table: &mut Table,
    to: StreamIndex,
    packet: &mut Datagram<'_>,
    events: &mut impl EventSink,
) -> Result<(), DropReason> {
    let Some(safe) = table[to].safe else { return Ok(()) };
    let sender = table.vault.keys_mut(safe).send.as_mut().ok_or(Error::NoKey)?;
    let MustShow(must_show) = sender.protect_rtcp(packet)?;
    if must_show {
        table.show(to, events);
    }
    Ok(())
}

/// Sends a report of our own making. Without a key yet nothing is said.
pub(crate) fn send_report(
    table: &mut Table,
    from: StreamIndex,
    to: SocketAddr,
    report: &[u8],
    out: &mut Outlet<'_, impl Driver, impl EventSink>,
) {
    let mut buffer = [0; RTCP_BYTES_MAX + SRTCP_ROOM_BYTES];
    let Some(place) = buffer.get_mut(..report.len()) else { return };
    place.copy_from_slice(report);
    let mut packet = Datagram::new(&mut buffer, report.len());
    if rtcp(table, from, &mut packet, out.events).is_ok() {
        let stream = &mut table[from];
        out.driver.send(stream.rtcp_socket(from), to, packet.as_ref());
        stream.stats.rtcp_sent += 1;
    }
}
