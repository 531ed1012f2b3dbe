//! RTP becomes SRTP, RTCP becomes SRTCP, in place, as the last thing before a packet is handed to the driver. Called for each
//! packet to a peer that wants protection.

use crate::driver::{Datagram, Driver, StreamIndex};
use crate::limits::RTCP_BYTES_MAX;
use crate::srtp::{Error, MustShow, SRTCP_ROOM_BYTES, Sender};
use crate::table::Table;
use nebula_ring::drops::DropReason;
use std::net::SocketAddr;

/// RTP to a stream's peer. A stream without protection leaves it as it is.
#[inline]
pub(crate) fn rtp(table: &mut Table, to: StreamIndex, packet: &mut Datagram<'_>) -> Result<(), DropReason> {
    protect(table, to, |sender| sender.protect_rtp(packet))
}

/// RTCP to a stream's peer. A stream without protection leaves it as it is.
pub(crate) fn rtcp(table: &mut Table, to: StreamIndex, packet: &mut Datagram<'_>) -> Result<(), DropReason> {
    protect(table, to, |sender| sender.protect_rtcp(packet))
}

/// Sends a report of our own making. Without a key yet nothing is said.
pub(crate) fn send_report(
    table: &mut Table,
    from: StreamIndex,
    to: SocketAddr,
    report: &[u8],
    driver: &mut impl Driver,
) {
    let mut buffer = [0; RTCP_BYTES_MAX + SRTCP_ROOM_BYTES];
    let Some(place) = buffer.get_mut(..report.len()) else { return };
    place.copy_from_slice(report);
    let mut packet = Datagram::new(&mut buffer, report.len());
    if rtcp(table, from, &mut packet).is_ok() {
        let stream = &mut table[from];
        driver.send(stream.rtcp_socket(from), to, packet.as_ref());
        stream.stats.rtcp_sent += 1;
    }
}

#[inline]
fn protect(
    table: &mut Table,
    to: StreamIndex,
    with: impl FnOnce(&mut Sender) -> Result<MustShow, Error>,
) -> Result<(), DropReason> {
    let Some(safe) = table[to].safe else { return Ok(()) };
    let MustShow(must_show) = with(table.vault.keys_mut(safe).send.as_mut().ok_or(Error::NoKey)?)?;
    if must_show {
        table.press(to);
    }
    Ok(())
}
